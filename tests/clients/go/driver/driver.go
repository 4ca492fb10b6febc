// Package driver is what the Go clients share: the job, the count of what was consumed, the one line of result.
// See tests/clients/README.md.
package driver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// Job is the program's argument. A round trip needs Count, a soak what stands behind it.
type Job struct {
	BootstrapServers string    `json:"bootstrap_servers"`
	ClientID         string    `json:"client_id"`
	Topic            string    `json:"topic"`
	GroupID          string    `json:"group_id"`
	Count            int       `json:"count"`
	Partitions       int       `json:"partitions"`
	RecordsPerSecond int       `json:"records_per_second"`
	Idempotent       bool      `json:"idempotent"`
	Acks             string    `json:"acks"`
	Retries          *int      `json:"retries"`
	LingerMs         *int      `json:"linger_ms"`
	MetadataMaxAgeMs *int      `json:"metadata_max_age_ms"`
	SecondTopic      string    `json:"second_topic"`
	TimeoutMs        int       `json:"timeout_ms"`
	Security         *Security `json:"security"`
}

// Security is nil for PLAINTEXT. Ca, Certificate and Key are paths of PEM files.
type Security struct {
	Protocol    string `json:"protocol"`
	Mechanism   string `json:"mechanism"`
	Username    string `json:"username"`
	Password    string `json:"password"`
	Ca          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Brokers is BootstrapServers, split.
func (j *Job) Brokers() []string {
	return strings.Split(j.BootstrapServers, ",")
}

// Record returns the key and the value of the i-th record.
func (j *Job) Record(i int) (key, value string) {
	return fmt.Sprintf("k-%d", i), fmt.Sprintf("%s-%d", j.ClientID, i)
}

// TLS returns nil for a protocol without TLS.
func (s *Security) TLS() (*tls.Config, error) {
	if !strings.HasSuffix(s.Protocol, "SSL") {
		return nil, nil
	}
	config := &tls.Config{}
	if s.Ca != "" {
		pem, err := os.ReadFile(s.Ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", s.Ca)
		}
	}
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Trip counts what a round trip does; its methods may be called from any goroutine.
type Trip struct {
	Job Job

	mu          sync.Mutex
	step        string
	topics      int
	produced    int
	values      map[string]bool // whether it was seen
	seen        int
	duplicates  int
	assigned    [2]int
	members     [2]int
	lastOffsets [2]map[int32]int64
	reordered   int
}

// Step names what is being done, for errors.
func (t *Trip) Step(step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step = step
}

// Listed takes all topics of the cluster; the job's must be among them.
func (t *Trip) Listed(topics []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.topics = len(topics)
	if !slices.Contains(topics, t.Job.Topic) {
		return fmt.Errorf("%s is not among the %d topics", t.Job.Topic, len(topics))
	}
	return nil
}

// Assigned notes that a member got partitions, or lost them (negative).
func (t *Trip) Assigned(member, partitions int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.assigned[member] += partitions
}

// Produced notes acknowledged records.
func (t *Trip) Produced(records int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.produced += records
}

// Consumed notes a record that a member got.
func (t *Trip) Consumed(member int, partition int32, offset int64, value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.lastOffsets[member][partition]; ok && offset <= last {
		t.reordered++
	}
	t.lastOffsets[member][partition] = offset
	seen, ours := t.values[value]
	if !ours { // the topic may also hold what other clients produced
		return
	}
	t.members[member]++
	if seen {
		t.duplicates++
		return
	}
	t.values[value] = true
	t.seen++
}

// AwaitGroup returns when both members have partitions.
func (t *Trip) AwaitGroup(ctx context.Context) error {
	return t.await(ctx, func() bool { return t.assigned[0] > 0 && t.assigned[1] > 0 })
}

// AwaitRecords returns when every value was seen and then nothing more is to be expected.
func (t *Trip) AwaitRecords(ctx context.Context) error {
	if err := t.await(ctx, func() bool { return t.seen == t.Job.Count }); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // time for duplicates to show
	return nil
}

func (t *Trip) await(ctx context.Context, done func() bool) error {
	for {
		t.mu.Lock()
		ok := done()
		t.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Main runs the round trip and ends the program. client is the name to report, module the Go module whose version is reported.
func Main(client, module string, run func(context.Context, *Trip) error) {
	trip := &Trip{values: map[string]bool{}, step: "starting", lastOffsets: [2]map[int32]int64{{}, {}}}
	if len(os.Args) != 2 {
		trip.fail(client, fmt.Errorf("want one argument, the job as JSON"))
	}
	if err := json.Unmarshal([]byte(os.Args[1]), &trip.Job); err != nil {
		trip.fail(client, err)
	}
	for i := range trip.Job.Count {
		_, value := trip.Job.Record(i)
		trip.values[value] = false
	}
	limit := time.Duration(trip.Job.TimeoutMs) * time.Millisecond
	// Not only a context: a client's Close can hang, too.
	time.AfterFunc(limit, func() { trip.fail(client, fmt.Errorf("not done after %s", limit)) })

	start := time.Now()
	if err := run(context.Background(), trip); err != nil {
		trip.fail(client, err)
	}
	seconds := time.Since(start).Seconds()

	trip.mu.Lock()
	defer trip.mu.Unlock()
	printLine(map[string]any{
		"client":     client,
		"version":    version(module),
		"topics":     trip.topics,
		"produced":   trip.produced,
		"consumed":   trip.seen,
		"duplicates": trip.duplicates,
		"members":    trip.members,
		"reordered":  trip.reordered,
		"seconds":    seconds,
	})
	if trip.duplicates > 0 || trip.reordered > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func (t *Trip) fail(client string, err error) {
	t.mu.Lock() // for good: whoever else would report now is too late
	printLine(map[string]any{"client": client, "error": fmt.Sprintf("%s: %v", t.step, err)})
	os.Exit(1)
}

func printLine(line map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		panic(err)
	}
}

func version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
	return "unknown"
}
