package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"kferry.test/clients/driver"
)

// soak produces numbers, and consumes them in a group of two. The library has no idempotent producer.
func soak(s *driver.Soak) (func(partition int32, number int64), func(context.Context), error) {
	job := &s.Job
	if job.Security != nil {
		return nil, nil, fmt.Errorf("this driver has no %s", job.Security.Protocol)
	}
	failures := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	writer := &kafka.Writer{
		Addr:         kafka.TCP(job.Brokers()...),
		Topic:        job.Topic,
		Transport:    &kafka.Transport{ClientID: job.ClientID},
		Balancer:     kafka.BalancerFunc(func(message kafka.Message, _ ...int) int { return int(partitionOf(message)) }),
		RequiredAcks: kafka.RequireAll,
		Async:        true,
		ErrorLogger:  failures,
		Completion: func(messages []kafka.Message, err error) {
			for _, message := range messages {
				if err != nil {
					s.Error("producing", err)
					continue
				}
				s.Acked(partitionOf(message))
			}
		},
	}
	var group [2]*kafka.Reader
	for member := range group {
		group[member] = newMember(job, failures)
	}

	send := func(partition int32, number int64) {
		// A writer asks its balancer for the partition: the key tells it.
		message := kafka.Message{Key: strconv.AppendInt(nil, int64(partition), 10), Value: strconv.AppendInt(nil, number, 10)}
		if err := writer.WriteMessages(context.Background(), message); err != nil {
			s.Error("producing", err)
		}
	}
	consume := func(ctx context.Context) {
		driver.Together(group, func(member *kafka.Reader) { consumeAs(ctx, s, member) })
	}
	return send, consume, nil
}

func partitionOf(message kafka.Message) int32 {
	partition, err := strconv.ParseInt(string(message.Key), 10, 32)
	if err != nil {
		panic(err)
	}
	return int32(partition)
}

func consumeAs(ctx context.Context, s *driver.Soak, member *kafka.Reader) {
	for {
		// Commits, too.
		message, err := member.ReadMessage(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.Error("consuming", err)
			time.Sleep(time.Second)
			continue
		}
		number, err := strconv.ParseInt(string(message.Value), 10, 64)
		if err != nil {
			s.Error("consuming", err)
			continue
		}
		s.Consumed(int32(message.Partition), number)
	}
	if err := member.Close(); err != nil {
		s.Error("closing", err)
	}
}
