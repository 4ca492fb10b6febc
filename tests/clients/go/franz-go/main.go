// A round trip of franz-go: lists the topics, produces, consumes in a group of two. Its soak is in soak.go.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"kferry.test/clients/driver"
)

func main() {
	driver.MainSoak(startProducer, startGroup)
	driver.Main("franz-go", "github.com/twmb/franz-go", roundTrip)
}

func roundTrip(ctx context.Context, trip *driver.Trip) error {
	options, err := connection(&trip.Job)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()

	trip.Step("listing topics")
	topics, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		return err
	}
	if err := trip.Listed(topics.Names()); err != nil {
		return err
	}

	trip.Step("joining the group")
	var group [2]*kgo.Client
	for member := range group {
		group[member], err = kgo.NewClient(slices.Concat(options, consumer(trip, member))...)
		if err != nil {
			return err
		}
		defer group[member].Close()
	}
	polling, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var polls sync.WaitGroup
	for member := range group {
		polls.Go(func() {
			if err := poll(polling, trip, member, group[member]); err != nil {
				stop(err)
			}
		})
	}
	if err := trip.AwaitGroup(polling); err != nil {
		return err
	}

	trip.Step("producing")
	if err := produce(ctx, trip, client); err != nil {
		return err
	}

	trip.Step("consuming")
	if err := trip.AwaitRecords(polling); err != nil {
		return err
	}

	trip.Step("committing and closing")
	stop(nil)
	polls.Wait()
	for _, member := range group {
		if err := member.CommitUncommittedOffsets(ctx); err != nil {
			return err
		}
	}
	return nil
}

func poll(ctx context.Context, trip *driver.Trip, member int, client *kgo.Client) error {
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			trip.Consumed(member, r.Partition, r.Offset, string(r.Value))
		})
	}
}

func produce(ctx context.Context, trip *driver.Trip, client *kgo.Client) error {
	records := make([]*kgo.Record, trip.Job.Count)
	for i := range records {
		key, value := trip.Job.Record(i)
		records[i] = &kgo.Record{Topic: trip.Job.Topic, Key: []byte(key), Value: []byte(value)}
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	trip.Produced(len(records))
	return nil
}

func consumer(trip *driver.Trip, member int) []kgo.Opt {
	lost := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		trip.Assigned(member, -len(partitions[trip.Job.Topic]))
	}
	return []kgo.Opt{
		kgo.ConsumerGroup(trip.Job.GroupID),
		kgo.ConsumeTopics(trip.Job.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			trip.Assigned(member, len(partitions[trip.Job.Topic]))
		}),
		kgo.OnPartitionsRevoked(lost),
		kgo.OnPartitionsLost(lost),
	}
}

func connection(job *driver.Job) ([]kgo.Opt, error) {
	options := []kgo.Opt{
		kgo.SeedBrokers(job.Brokers()...),
		kgo.ClientID(job.ClientID),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelInfo, nil)),
	}
	security := job.Security
	if security == nil {
		return options, nil
	}
	config, err := security.TLS()
	if err != nil {
		return nil, err
	}
	if config != nil {
		options = append(options, kgo.DialTLSConfig(config))
	}
	switch security.Mechanism {
	case "":
	case "PLAIN":
		options = append(options, kgo.SASL(plain.Auth{User: security.Username, Pass: security.Password}.AsMechanism()))
	case "SCRAM-SHA-256":
		options = append(options, kgo.SASL(scram.Auth{User: security.Username, Pass: security.Password}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		options = append(options, kgo.SASL(scram.Auth{User: security.Username, Pass: security.Password}.AsSha512Mechanism()))
	default:
		return nil, fmt.Errorf("unknown SASL mechanism %s", security.Mechanism)
	}
	return options, nil
}
