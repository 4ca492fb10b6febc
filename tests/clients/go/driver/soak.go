package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const report = 100 * time.Millisecond

// Soak counts what a soak does; its methods may be called from any goroutine.
type Soak struct {
	Job Job

	mu       sync.Mutex
	sent     [][]int64 // when, by place and number
	acked    []int64
	acks     [][4]int64
	settled  int64
	consumed []int64
	again    int64
	skipped  int64
}

// Milliseconds is a setting as a duration, or the library's own.
func Milliseconds(setting *int, own time.Duration) time.Duration {
	if setting == nil {
		return own
	}
	return time.Duration(*setting) * time.Millisecond
}

// Settled notes that a record is acknowledged, or given up.
func (s *Soak) Settled(topic string, partition int32, number int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled++
	if err != nil {
		printLine(map[string]any{"error": fmt.Sprintf("producing: %v", err)})
		return
	}
	place := int(partition)
	if topic != s.Job.Topic {
		place += s.Job.Partitions
	}
	s.acked[place]++
	if s.Job.GroupID == "" {
		s.acks = append(s.acks, [4]int64{int64(place), number, s.sent[place][number], time.Now().UnixMilli()})
	}
}

// next notes that a record is about to be sent to a place, and returns which.
func (s *Soak) next(place int) (topic string, partition int32, number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number = int64(len(s.sent[place]))
	s.sent[place] = append(s.sent[place], time.Now().UnixMilli())
	if place < s.Job.Partitions {
		return s.Job.Topic, int32(place), number
	}
	return s.Job.SecondTopic, int32(place - s.Job.Partitions), number
}

// isDone says whether each record is acknowledged or given up, and all is read if there is a group.
func (s *Soak) isDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, isRead := int64(0), true
	for place, sent := range s.sent {
		all += int64(len(sent))
		isRead = isRead && s.consumed[place] == int64(len(sent))
	}
	return s.settled == all && (isRead || s.Job.GroupID == "")
}

// Consumed notes a number that a member got: the next of its partition, one that was read before, or one too far.
func (s *Soak) Consumed(partition int32, number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.consumed[partition]
	if number < next {
		s.again++
		return
	}
	if number > next {
		s.skipped++
	}
	s.consumed[partition] = number + 1
}

// Error reports what an application can't go on with.
func (s *Soak) Error(step string, err error) {
	s.print(map[string]any{"error": fmt.Sprintf("%s: %v", step, err)})
}

// Notice reports what the library tells of its troubles while it goes on.
func (s *Soak) Notice(step string, err error) {
	s.print(map[string]any{"notice": fmt.Sprintf("%s: %v", step, err)})
}

func (s *Soak) print(line map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	printLine(line)
}

func (s *Soak) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	printLine(map[string]any{"progress": map[string]any{
		"acked": s.acked, "consumed": s.consumed, "again": s.again, "skipped": s.skipped,
	}})
	if len(s.acks) > 0 {
		printLine(map[string]any{"acks": s.acks})
		s.acks = nil
	}
}

// Together runs what each member of a group does, and returns when all have ended.
func Together[M any](group [2]M, consume func(M)) {
	var members sync.WaitGroup
	for _, member := range group {
		members.Go(func() { consume(member) })
	}
	members.Wait()
}

// Sends hands a record to a library, without waiting.
type Sends func(topic string, partition int32, number int64)

// MainSoak runs a soak and ends the program, if that is what its arguments ask for. produce starts a producer; group starts a group of two, which is to
// read until its context ends, when all was read.
func MainSoak(produce func(*Soak) (Sends, error), group func(*Soak) (func(context.Context), error)) {
	if len(os.Args) != 3 || os.Args[1] != "soak" {
		return
	}
	soak := &Soak{}
	fail := func(step string, err error) {
		soak.Error(step, err)
		os.Exit(1)
	}
	if err := json.Unmarshal([]byte(os.Args[2]), &soak.Job); err != nil {
		fail("starting", err)
	}
	places := soak.Job.Partitions
	if soak.Job.SecondTopic != "" {
		places *= 2
	}
	soak.sent, soak.acked, soak.consumed = make([][]int64, places), make([]int64, places), make([]int64, places)
	send, err := produce(soak)
	if err != nil {
		fail("starting", err)
	}
	consuming, allRead := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	if soak.Job.GroupID != "" {
		read, err := group(soak)
		if err != nil {
			fail("starting", err)
		}
		ended.Go(func() { read(consuming) })
	}
	stopped, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // however it ends
		stop()
	}()
	go func() {
		for range time.Tick(report) {
			soak.report()
		}
	}()

	start, all := time.Now(), 0
	for stopped.Err() == nil {
		for ; float64(all) < time.Since(start).Seconds()*float64(soak.Job.RecordsPerSecond); all++ {
			send(soak.next(all % places))
		}
		time.Sleep(time.Millisecond)
	}
	limit := time.Duration(soak.Job.TimeoutMs) * time.Millisecond
	time.AfterFunc(limit, func() { fail("ending", fmt.Errorf("not done %s after the last of %d was sent", limit, all)) })
	for !soak.isDone() {
		time.Sleep(report)
	}
	allRead()
	ended.Wait()
	soak.report()
	os.Exit(0)
}
