package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"kferry.test/clients/driver"
)

// soak produces numbers, and consumes them in a group of two.
func soak(s *driver.Soak) (func(partition int32, number int64), func(context.Context), error) {
	options, err := connection(&s.Job)
	if err != nil {
		return nil, nil, err
	}
	producing := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner())}
	if !s.Job.Idempotent {
		// As many requests at a time to each broker as other libraries have; its own default is one.
		producing = append(producing, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5))
	}
	producer, err := kgo.NewClient(slices.Concat(options, producing)...)
	if err != nil {
		return nil, nil, err
	}
	var group [2]*kgo.Client
	for member := range group {
		group[member], err = kgo.NewClient(slices.Concat(options, []kgo.Opt{
			kgo.ConsumerGroup(s.Job.GroupID),
			kgo.ConsumeTopics(s.Job.Topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		})...)
		if err != nil {
			return nil, nil, err
		}
	}

	send := func(partition int32, number int64) {
		record := &kgo.Record{Topic: s.Job.Topic, Partition: partition, Value: strconv.AppendInt(nil, number, 10)}
		producer.TryProduce(context.Background(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				s.Error("producing", err)
				return
			}
			s.Acked(partition)
		})
	}
	consume := func(ctx context.Context) {
		driver.Together(group, func(member *kgo.Client) { consumeAs(ctx, s, member) })
	}
	return send, consume, nil
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
