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

var (
	acks     = map[string]kafka.RequiredAcks{"all": kafka.RequireAll, "1": kafka.RequireOne, "0": kafka.RequireNone}
	failures = log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
)

// startProducer returns what sends numbers. The library has no idempotent producer.
func startProducer(s *driver.Soak) (driver.Sends, error) {
	job := &s.Job
	if job.Security != nil {
		return nil, fmt.Errorf("this driver has no %s", job.Security.Protocol)
	}
	writer := &kafka.Writer{
		Addr:         kafka.TCP(job.Brokers()...),
		Transport:    &kafka.Transport{ClientID: job.ClientID, MetadataTTL: driver.Milliseconds(job.MetadataMaxAgeMs, 0)},
		Balancer:     kafka.BalancerFunc(func(message kafka.Message, _ ...int) int { return int(numberIn(message.Key)) }),
		BatchTimeout: driver.Milliseconds(job.LingerMs, 0),
		RequiredAcks: acks[job.Acks],
		Async:        true,
		ErrorLogger:  failures,
		Completion: func(messages []kafka.Message, err error) {
			for _, message := range messages {
				s.Settled(message.Topic, int32(numberIn(message.Key)), numberIn(message.Value), err)
			}
		},
	}
	if job.Retries != nil {
		writer.MaxAttempts = 1 + *job.Retries
	}
	return func(topic string, partition int32, number int64) {
		// A writer asks its balancer for the partition: the key tells it.
		message := kafka.Message{Topic: topic, Key: strconv.AppendInt(nil, int64(partition), 10), Value: strconv.AppendInt(nil, number, 10)}
		if err := writer.WriteMessages(context.Background(), message); err != nil {
			s.Settled(topic, partition, number, err)
		}
	}, nil
}

// startGroup returns what reads them, in a group of two.
func startGroup(s *driver.Soak) (func(context.Context), error) {
	var group [2]*kafka.Reader
	for member := range group {
		group[member] = newMember(&s.Job, failures)
	}
	return func(ctx context.Context) {
		driver.Together(group, func(member *kafka.Reader) { consumeAs(ctx, s, member) })
	}, nil
}

func numberIn(text []byte) int64 {
	number, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		panic(err)
	}
	return number
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
