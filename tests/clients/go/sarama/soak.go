package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/IBM/sarama"

	"kferry.test/clients/driver"
)

// soak produces numbers, and consumes them in a group of two.
func soak(s *driver.Soak) (func(partition int32, number int64), func(context.Context), error) {
	config, err := connection(&s.Job)
	if err != nil {
		return nil, nil, err
	}
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Return.Errors = true
	var group [2]sarama.ConsumerGroup
	for member := range group {
		group[member], err = sarama.NewConsumerGroup(s.Job.Brokers(), s.Job.GroupID, config)
		if err != nil {
			return nil, nil, err
		}
		go func() {
			for err := range group[member].Errors() {
				s.Notice("consuming", err)
			}
		}()
	}
	producer, err := startProducer(s)
	if err != nil {
		return nil, nil, err
	}

	send := func(partition int32, number int64) {
		value := sarama.StringEncoder(strconv.FormatInt(number, 10))
		producer.Input() <- &sarama.ProducerMessage{Topic: s.Job.Topic, Partition: partition, Value: value}
	}
	consume := func(ctx context.Context) {
		driver.Together(group, func(member sarama.ConsumerGroup) { consumeAs(ctx, s, member) })
	}
	return send, consume, nil
}

func startProducer(s *driver.Soak) (sarama.AsyncProducer, error) {
	config, err := connection(&s.Job)
	if err != nil {
		return nil, err
	}
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Return.Successes = true
	if s.Job.Idempotent {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1 // the library wants it
	}
	producer, err := sarama.NewAsyncProducer(s.Job.Brokers(), config)
	if err != nil {
		return nil, err
	}
	go func() {
		for message := range producer.Successes() {
			s.Acked(message.Partition)
		}
	}()
	go func() {
		for failed := range producer.Errors() {
			s.Error("producing", failed.Err)
		}
	}()
	return producer, nil
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
