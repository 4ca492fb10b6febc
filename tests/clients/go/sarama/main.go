// A round trip of sarama: lists the topics, produces, consumes in a group of two. Its soak is in soak.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"

	"kferry.test/clients/driver"
)

func main() {
	sarama.Logger = log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	driver.MainSoak(startProducer, startGroup)
	driver.Main("sarama", "github.com/IBM/sarama", roundTrip)
}

func roundTrip(ctx context.Context, trip *driver.Trip) error {
	trip.Step("listing topics")
	if err := listTopics(trip); err != nil {
		return err
	}

	trip.Step("joining the group")
	config, err := connection(&trip.Job)
	if err != nil {
		return err
	}
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	var group [2]sarama.ConsumerGroup
	for member := range group {
		group[member], err = sarama.NewConsumerGroup(trip.Job.Brokers(), trip.Job.GroupID, config)
		if err != nil {
			return err
		}
	}
	consuming, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var sessions sync.WaitGroup
	for member := range group {
		sessions.Go(func() {
			if err := consume(consuming, trip, member, group[member]); err != nil {
				stop(err)
			}
		})
	}
	if err := trip.AwaitGroup(consuming); err != nil {
		return err
	}

	trip.Step("producing")
	if err := produce(trip); err != nil {
		return err
	}

	trip.Step("consuming")
	if err := trip.AwaitRecords(consuming); err != nil {
		return err
	}

	// The end of a session commits what was marked.
	trip.Step("committing and closing")
	stop(nil)
	sessions.Wait()
	return errors.Join(group[0].Close(), group[1].Close())
}

func listTopics(trip *driver.Trip) error {
	config, err := connection(&trip.Job)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin(trip.Job.Brokers(), config)
	if err != nil {
		return err
	}
	defer admin.Close()
	topics, err := admin.ListTopics()
	if err != nil {
		return err
	}
	return trip.Listed(slices.Collect(maps.Keys(topics)))
}

// consume has one session after the other: each rebalance ends one.
func consume(ctx context.Context, trip *driver.Trip, member int, group sarama.ConsumerGroup) error {
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{trip.Job.Topic}, handler{trip, member}); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

type handler struct {
	trip   *driver.Trip
	member int
}

func (h handler) Setup(session sarama.ConsumerGroupSession) error {
	h.trip.Assigned(h.member, len(session.Claims()[h.trip.Job.Topic]))
	return nil
}

func (h handler) Cleanup(session sarama.ConsumerGroupSession) error {
	h.trip.Assigned(h.member, -len(session.Claims()[h.trip.Job.Topic]))
	return nil
}

func (h handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			h.trip.Consumed(h.member, message.Partition, message.Offset, string(message.Value))
			session.MarkMessage(message, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func produce(trip *driver.Trip) error {
	config, err := connection(&trip.Job)
	if err != nil {
		return err
	}
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true // SyncProducer wants it
	producer, err := sarama.NewSyncProducer(trip.Job.Brokers(), config)
	if err != nil {
		return err
	}
	messages := make([]*sarama.ProducerMessage, trip.Job.Count)
	for i := range messages {
		key, value := trip.Job.Record(i)
		messages[i] = &sarama.ProducerMessage{
			Topic: trip.Job.Topic,
			Key:   sarama.StringEncoder(key),
			Value: sarama.StringEncoder(value),
		}
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	trip.Produced(len(messages))
	return producer.Close()
}

func connection(job *driver.Job) (*sarama.Config, error) {
	config := sarama.NewConfig()
	config.ClientID = job.ClientID
	security := job.Security
	if security == nil {
		return config, nil
	}
	tls, err := security.TLS()
	if err != nil {
		return nil, err
	}
	config.Net.TLS.Enable = tls != nil
	config.Net.TLS.Config = tls
	if security.Mechanism == "" {
		return config, nil
	}
	config.Net.SASL.Enable = true
	config.Net.SASL.Mechanism = sarama.SASLMechanism(security.Mechanism)
	config.Net.SASL.User = security.Username
	config.Net.SASL.Password = security.Password
	switch security.Mechanism {
	case sarama.SASLTypePlaintext:
	case sarama.SASLTypeSCRAMSHA256:
		config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case sarama.SASLTypeSCRAMSHA512:
		config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	default:
		return nil, fmt.Errorf("unknown SASL mechanism %s", security.Mechanism)
	}
	return config, nil
}

// scramClient gives sarama the SCRAM that it leaves to its users; this library is what sarama's own examples take.
type scramClient struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *scramClient) Begin(username, password, authzID string) error {
	client, err := c.hash.NewClient(username, password, authzID)
	if err != nil {
		return err
	}
	c.ClientConversation = client.NewConversation()
	return nil
}
