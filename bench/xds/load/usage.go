package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a server's process has used, with those that it started: user and system time in
// seconds since it started, resident memory in bytes now.
type usage struct {
	CPU float64 `json:"cpu_s"`
	RSS int64   `json:"rss"`
}

const (
	tick    = 100 // a second, of the times in /proc (USER_HZ)
	quiet   = 150 * time.Millisecond
	settled = 10 * time.Second
)

func usageOf(pid int) (usage, error) {
	if pid == 0 {
		return usage{}, nil
	}
	family := map[int]bool{pid: true}
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	parents, used := map[int]int{}, map[int]usage{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...: the name may have anything in it
		after := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		of, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(after) < 22 || after[0] == "Z" { // ended, and nobody was told yet
			continue
		}
		parents[of], _ = strconv.Atoi(after[1])
		user, _ := strconv.ParseInt(after[11], 10, 64)
		system, _ := strconv.ParseInt(after[12], 10, 64)
		pages, _ := strconv.ParseInt(after[21], 10, 64)
		used[of] = usage{float64(user+system) / tick, pages * int64(os.Getpagesize())}
	}
	for grown := true; grown; {
		grown = false
		for child, parent := range parents {
			if family[parent] && !family[child] {
				family[child], grown = true, true
			}
		}
	}
	if _, there := used[pid]; !there {
		return usage{}, fmt.Errorf("the server's process %d has ended", pid)
	}
	var sum usage
	for member := range family {
		sum.CPU += used[member].CPU
		sum.RSS += used[member].RSS
	}
	return sum, nil
}

// rested waits until the server does next to nothing: acknowledgements are work too, and come after
// the last stream has what it waited for.
func rested(pid int) (usage, error) {
	before, err := usageOf(pid)
	for end := time.Now().Add(settled); err == nil && pid != 0 && time.Now().Before(end); {
		time.Sleep(quiet)
		var now usage
		now, err = usageOf(pid)
		if now.CPU-before.CPU < 1.5/tick {
			return now, err
		}
		before = now
	}
	return before, err
}

// ownCPU is this process's time in seconds.
func ownCPU() float64 {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(r.Utime) + seconds(r.Stime)
}
