package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

const report = 100 * time.Millisecond

// Soak counts what a soak does; its methods may be called from any goroutine.
type Soak struct {
	Job Job

	mu       sync.Mutex
	acked    []int64
	consumed []int64
	again    int64
	skipped  int64
}

// Acked notes an acknowledged record.
func (s *Soak) Acked(partition int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[partition]++
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
}

// Together runs what each member of a group does, and returns when all have ended.
func Together[M any](group [2]M, consume func(M)) {
	var members sync.WaitGroup
	for _, member := range group {
		members.Go(func() { consume(member) })
	}
	members.Wait()
}

// MainSoak runs a soak and ends the program, if that is what its arguments ask for. send must not wait; consume runs until its context ends, when all was read.
func MainSoak(open func(*Soak) (send func(partition int32, number int64), consume func(context.Context), err error)) {
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
	soak.acked, soak.consumed = make([]int64, soak.Job.Partitions), make([]int64, soak.Job.Partitions)
	send, consume, err := open(soak)
	if err != nil {
		fail("starting", err)
	}

	consuming, allRead := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { consume(consuming) })
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

	sent := make([]int64, soak.Job.Partitions)
	start, all := time.Now(), 0
	for stopped.Err() == nil {
		for ; float64(all) < time.Since(start).Seconds()*float64(soak.Job.RecordsPerSecond); all++ {
			partition := all % soak.Job.Partitions
			send(int32(partition), sent[partition])
			sent[partition]++
		}
		time.Sleep(time.Millisecond)
	}
	limit := time.Duration(soak.Job.TimeoutMs) * time.Millisecond
	time.AfterFunc(limit, func() { fail("ending", fmt.Errorf("not done %s after the last of %v was sent", limit, sent)) })
	done := func() bool {
		soak.mu.Lock()
		defer soak.mu.Unlock()
		return slices.Equal(sent, soak.acked) && slices.Equal(sent, soak.consumed)
	}
	for !done() {
		time.Sleep(report)
	}
	allRead()
	ended.Wait()
	soak.report()
	os.Exit(0)
}
