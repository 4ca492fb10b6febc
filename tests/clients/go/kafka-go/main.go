// A round trip of kafka-go: lists the topics, produces, consumes in a group of two. PLAINTEXT only. Its soak is in soak.go.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"kferry.test/clients/driver"
)

func main() {
	driver.MainSoak(startProducer, startGroup)
	driver.Main("kafka-go", "github.com/segmentio/kafka-go", roundTrip)
}

func roundTrip(ctx context.Context, trip *driver.Trip) error {
	job := &trip.Job
	if job.Security != nil {
		return fmt.Errorf("this driver has no %s", job.Security.Protocol)
	}
	// The library has two ways to connect, each with a ClientID of its own: readers use a dialer, all else a transport.
	transport := &kafka.Transport{ClientID: job.ClientID}
	client := &kafka.Client{Addr: kafka.TCP(job.Brokers()...), Transport: transport}

	trip.Step("listing topics")
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return err
	}
	var topics []string
	for _, topic := range metadata.Topics {
		topics = append(topics, topic.Name)
	}
	if err := trip.Listed(topics); err != nil {
		return err
	}

	trip.Step("joining the group")
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group [2]*kafka.Reader
	for member := range group {
		group[member] = newMember(job, nil)
		go func() {
			for {
				// Commits, too.
				message, err := group[member].ReadMessage(reading)
				if err != nil {
					stop(err)
					return
				}
				trip.Consumed(member, int32(message.Partition), message.Offset, string(message.Value))
			}
		}()
	}
	// A reader does not tell what it was assigned, its group's coordinator does.
	for {
		described, err := client.DescribeGroups(reading, &kafka.DescribeGroupsRequest{GroupIDs: []string{job.GroupID}})
		if err != nil {
			return err
		}
		assigned := 0
		for _, member := range described.Groups[0].Members {
			for _, topic := range member.MemberAssignments.Topics {
				if len(topic.Partitions) > 0 {
					assigned++
				}
			}
		}
		if assigned == len(group) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}

	trip.Step("producing")
	writer := &kafka.Writer{
		Addr:         client.Addr,
		Topic:        job.Topic,
		Transport:    transport,
		Balancer:     &kafka.Hash{},
		RequiredAcks: kafka.RequireAll,
	}
	messages := make([]kafka.Message, job.Count)
	for i := range messages {
		key, value := job.Record(i)
		messages[i] = kafka.Message{Key: []byte(key), Value: []byte(value)}
	}
	if err := writer.WriteMessages(ctx, messages...); err != nil {
		return err
	}
	trip.Produced(len(messages))
	if err := writer.Close(); err != nil {
		return err
	}

	trip.Step("consuming")
	if err := trip.AwaitRecords(reading); err != nil {
		return err
	}

	trip.Step("committing and closing")
	for _, reader := range group {
		if err := reader.Close(); err != nil {
			return err
		}
	}
	return nil
}

// newMember joins the job's group. failures may be nil: then nobody is told of what it tries again.
func newMember(job *driver.Job, failures kafka.Logger) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: job.Brokers(),
		GroupID: job.GroupID,
		Topic:   job.Topic,
		Dialer:  &kafka.Dialer{ClientID: job.ClientID, Timeout: 10 * time.Second, DualStack: true},
		// A reader that gives its partitions up, for a rebalance or at its end, waits for the answer to its Fetch first: by default 10 s, each time.
		MaxWait:     500 * time.Millisecond,
		ErrorLogger: failures,
	})
}
