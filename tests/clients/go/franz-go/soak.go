package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"kferry.test/clients/driver"
)

var acks = map[string]kgo.Acks{"all": kgo.AllISRAcks(), "1": kgo.LeaderAck(), "0": kgo.NoAck()}

// startProducer returns what sends numbers.
func startProducer(s *driver.Soak) (driver.Sends, error) {
	options, err := connection(&s.Job)
	if err != nil {
		return nil, err
	}
	options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(acks[s.Job.Acks]))
	if !s.Job.Idempotent {
		// As many requests at a time to each broker as other libraries have; its own default is one.
		options = append(options, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5))
	}
	if s.Job.Retries != nil {
		options = append(options, kgo.RecordRetries(*s.Job.Retries))
	}
	if s.Job.LingerMs != nil {
		options = append(options, kgo.ProducerLinger(driver.Milliseconds(s.Job.LingerMs, 0)))
	}
	if s.Job.MetadataMaxAgeMs != nil {
		options = append(options, kgo.MetadataMaxAge(driver.Milliseconds(s.Job.MetadataMaxAgeMs, 0)))
	}
	producer, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	return func(topic string, partition int32, number int64) {
		record := &kgo.Record{Topic: topic, Partition: partition, Value: strconv.AppendInt(nil, number, 10)}
		producer.TryProduce(context.Background(), record, func(_ *kgo.Record, err error) { s.Settled(topic, partition, number, err) })
	}, nil
}

// startGroup returns what reads them, in a group of two.
func startGroup(s *driver.Soak) (func(context.Context), error) {
	options, err := connection(&s.Job)
	if err != nil {
		return nil, err
	}
	var group [2]*kgo.Client
	for member := range group {
		group[member], err = kgo.NewClient(slices.Concat(options, []kgo.Opt{
			kgo.ConsumerGroup(s.Job.GroupID),
			kgo.ConsumeTopics(s.Job.Topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		})...)
		if err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) {
		driver.Together(group, func(member *kgo.Client) { consumeAs(ctx, s, member) })
	}, nil
}

func consumeAs(ctx context.Context, s *driver.Soak, member *kgo.Client) {
	for {
		fetches := member.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		fetches.EachError(func(_ string, _ int32, err error) {
			// Whoever lost data must know; the rest is tried again.
			if dataLoss := (*kgo.ErrDataLoss)(nil); errors.As(err, &dataLoss) {
				s.Error("consuming", err)
				return
			}
			s.Notice("consuming", err)
		})
		fetches.EachRecord(func(r *kgo.Record) {
			number, err := strconv.ParseInt(string(r.Value), 10, 64)
			if err != nil {
				s.Error("consuming", err)
				return
			}
			s.Consumed(r.Partition, number)
		})
	}
	if err := member.CommitUncommittedOffsets(context.WithoutCancel(ctx)); err != nil {
		s.Error("committing", err)
	}
	member.Close()
}
