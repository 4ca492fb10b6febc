package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/IBM/sarama"

	"kferry.test/clients/driver"
)

var acks = map[string]sarama.RequiredAcks{"all": sarama.WaitForAll, "1": sarama.WaitForLocal, "0": sarama.NoResponse}

// startProducer returns what sends numbers.
func startProducer(s *driver.Soak) (driver.Sends, error) {
	config, err := connection(&s.Job)
	if err != nil {
		return nil, err
	}
	config.Producer.RequiredAcks = acks[s.Job.Acks]
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Return.Successes = true
	if s.Job.Idempotent {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1 // the library wants it
	}
	if s.Job.Retries != nil {
		config.Producer.Retry.Max = *s.Job.Retries
	}
	config.Producer.Flush.Frequency = driver.Milliseconds(s.Job.LingerMs, config.Producer.Flush.Frequency)
	config.Metadata.RefreshFrequency = driver.Milliseconds(s.Job.MetadataMaxAgeMs, config.Metadata.RefreshFrequency)
	producer, err := sarama.NewAsyncProducer(s.Job.Brokers(), config)
	if err != nil {
		return nil, err
	}
	settle := func(message *sarama.ProducerMessage, err error) {
		s.Settled(message.Topic, message.Partition, message.Metadata.(int64), err)
	}
	go func() {
		for message := range producer.Successes() {
			settle(message, nil)
		}
	}()
	go func() {
		for failed := range producer.Errors() {
			settle(failed.Msg, failed.Err)
		}
	}()
	return func(topic string, partition int32, number int64) {
		value := sarama.StringEncoder(strconv.FormatInt(number, 10))
		producer.Input() <- &sarama.ProducerMessage{Topic: topic, Partition: partition, Value: value, Metadata: number}
	}, nil
}

// startGroup returns what reads them, in a group of two.
func startGroup(s *driver.Soak) (func(context.Context), error) {
	config, err := connection(&s.Job)
	if err != nil {
		return nil, err
	}
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Return.Errors = true
	var group [2]sarama.ConsumerGroup
	for member := range group {
		group[member], err = sarama.NewConsumerGroup(s.Job.Brokers(), s.Job.GroupID, config)
		if err != nil {
			return nil, err
		}
		go func() {
			for err := range group[member].Errors() {
				s.Notice("consuming", err)
			}
		}()
	}
	return func(ctx context.Context) {
		driver.Together(group, func(member sarama.ConsumerGroup) { consumeAs(ctx, s, member) })
	}, nil
}

// consumeAs has one session after the other: each rebalance ends one.
func consumeAs(ctx context.Context, s *driver.Soak, member sarama.ConsumerGroup) {
	for ctx.Err() == nil {
		err := member.Consume(ctx, []string{s.Job.Topic}, counter{s})
		if err != nil && ctx.Err() == nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
			s.Error("consuming", err)
		}
	}
	if err := member.Close(); err != nil {
		s.Error("closing", err)
	}
}

type counter struct {
	soak *driver.Soak
}

func (counter) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (counter) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (c counter) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			number, err := strconv.ParseInt(string(message.Value), 10, 64)
			if err != nil {
				return err
			}
			c.soak.Consumed(message.Partition, number)
			session.MarkMessage(message, "")
		case <-session.Context().Done():
			return nil
		}
	}
}
