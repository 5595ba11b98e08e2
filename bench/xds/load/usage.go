package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a server's process has used, with those that it started and that still run: user and
// system time in seconds since it started, resident memory in bytes now.
type usage struct {
	CPU float64 `json:"cpu_s"`
	RSS int64   `json:"rss"`
}

const (
	quiet   = 150 * time.Millisecond
	idle    = 0.0075 // seconds of CPU time in a quiet interval, at most: a twentieth of it
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
	parents, resident := map[int]int{}, map[int]int64{}
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
		pages, _ := strconv.ParseInt(after[21], 10, 64)
		resident[of] = pages * int64(os.Getpagesize())
	}
	for grown := true; grown; {
		grown = false
		for child, parent := range parents {
			if family[parent] && !family[child] {
				family[child], grown = true, true
			}
		}
	}
	if _, there := resident[pid]; !there {
		return usage{}, fmt.Errorf("the server's process %d has ended", pid)
	}
	var sum usage
	for member := range family {
		spent, err := cpuOf(member)
		if err != nil {
			continue // it has ended since
		}
		sum.CPU += spent
		sum.RSS += resident[member]
	}
	return sum, nil
}

// cpuOf reads the clock that counts a process's time in nanoseconds: those in /proc count in ticks of
// ten milliseconds, which is more than some steps take.
func cpuOf(pid int) (float64, error) {
	var now unix.Timespec
	// As clock_getcpuclockid makes it: the complement of the id, and 2 for the scheduler's count.
	err := unix.ClockGettime(int32(^pid<<3|2), &now)
	return float64(now.Nano()) / 1e9, err
}

// rested waits until the server does next to nothing: acknowledgements are work too, and come after
// the last stream has what it waited for.
func rested(pid int) (usage, error) {
	before, err := usageOf(pid)
	for end := time.Now().Add(settled); err == nil && pid != 0 && time.Now().Before(end); {
		time.Sleep(quiet)
		var now usage
		now, err = usageOf(pid)
		if now.CPU-before.CPU < idle {
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
