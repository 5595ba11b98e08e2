// A client that loads any xDS server: many delta ADS streams, each subscribed to everything (`*`) of
// some types, each acknowledging at once what it gets.
//
// It takes commands as lines of JSON on standard input and answers each with one line of JSON:
//
//	{"do": "open", "streams": 1000, "want": {"resources": 250}}
//	    connects, and waits until every stream is in sync
//	{"do": "change", "actions": [...], "want": {"generation": 2, "resources": 1}}
//	    makes the changes, one right after the other, and waits until every stream has the last one
//	{"do": "reconnect", "want": {"removed": 2}}
//	    ends all connections and opens as many, with the versions that are held, and waits as above
//	{"do": "publish", "actions": [...], "want": {"generation": 3}}
//	    makes a change and waits for nothing
//	{"do": "lag"}
//	    how far streams are behind what was published, since this was asked last
//	{"do": "close"}
//
// An action is {"method": "PUT", "url": ..., "body": FILE}: the client makes the change itself, so that
// there is one clock, and it starts before the server knows of it.
//
// A stream is in sync when it has `resources` different resources of that generation (any, if it is
// 0) and was told that `removed` are gone. Which resource it is, and of which generation, stands in
// the resource: 8 bytes "XDSLOAD1", the index and the generation as 32-bit little-endian numbers,
// anywhere in its value. Other resources are counted when no generation is asked for, each time.
// Versions are those that stream 0 was given; a reconnect also names one resource in each type that
// never was, so that every server has something to answer: a removal.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

type command struct {
	Do      string   `json:"do"`
	Streams int      `json:"streams"`
	Actions []action `json:"actions"`
	Want    want     `json:"want"`
}

// want says when a stream is in sync.
type want struct {
	Generation uint32 `json:"generation"`
	Resources  int    `json:"resources"`
	Removed    int    `json:"removed"`
}

func main() {
	var o options
	flag.StringVar(&o.target, "target", "", "host:port of the server")
	flag.StringVar(&o.ca, "ca", "", "PEM file: who signs the server's certificate; without it there is no TLS")
	flag.StringVar(&o.caKey, "ca-key", "", "PEM file: its key, to sign a certificate for each connection")
	flag.StringVar(&o.prefix, "node-prefix", "node-", "node ids are this and the stream's number")
	flag.IntVar(&o.connections, "connections", 0, "share so many connections; 0: each stream has its own")
	flag.IntVar(&o.pending, "pending", 1000, "so many streams at most are opened and not in sync yet")
	flag.IntVar(&o.pid, "pid", 0, "the server's process: its CPU time and memory are reported")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Minute, "wait for so long until all streams are in sync")
	types := flag.String("types", "", "type URLs, with commas between them")
	flag.Parse()
	if o.target == "" || *types == "" || flag.NArg() > 0 {
		log.Fatal("-target and -types are needed, and there are no other arguments")
	}
	o.types = strings.Split(*types, ",")
	debug.SetGCPercent(400) // memory for time: it shares the server's processors
	f, err := newFleet(o)
	if err != nil {
		log.Fatal(err)
	}
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		var answer any
		err := json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			answer, err = f.do(c)
		}
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := answers.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
	f.close()
}

func (f *fleet) do(c command) (any, error) {
	switch c.Do {
	case "open":
		if len(f.streams) > 0 {
			return nil, fmt.Errorf("%d streams are open", len(f.streams))
		}
		if err := f.prepare(c.Streams); err != nil {
			return nil, err
		}
		return f.measured(c.Want, c.Streams, func() {}, func() error { return f.open(c.Streams, nil) })
	case "reconnect":
		count, held := len(f.streams), f.versions.held()
		return f.measured(c.Want, count, f.close, func() error { return f.open(count, held) })
	case "change":
		prepared, err := prepare(c.Actions, f.options.timeout)
		if err != nil {
			return nil, err
		}
		return f.measured(c.Want, int(f.live.Load()), func() {}, prepared)
	case "publish":
		prepared, err := prepare(c.Actions, f.options.timeout)
		if err != nil {
			return nil, err
		}
		f.published.at(c.Want.Generation, time.Now())
		return map[string]any{}, prepared()
	case "lag":
		return f.lag(), nil
	case "close":
		f.close()
		_, err := rested(f.options.pid)
		return map[string]any{}, err
	}
	return nil, fmt.Errorf("no such command: %q", c.Do)
}

// raiseLimit makes room for so many open files.
func raiseLimit(files uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur >= files {
		return nil
	}
	raised := syscall.Rlimit{Cur: files, Max: max(files, limit.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return fmt.Errorf("a process may have %d open files, %d are needed: %w", limit.Max, files, err)
	}
	return nil
}
