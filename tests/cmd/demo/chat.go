package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"
)

// message is one line of the data.
type message struct {
	Channel string    `json:"channel"`
	At      time.Time `json:"at"`
	Nick    string    `json:"nick"`
	Kind    string    `json:"kind"`
	Text    string    `json:"text"`
}

// chat is the data, as a whole and by person.
type chat struct {
	all      []message
	byPerson map[string][]message
	people   []string // by falling number of messages, then name
}

func readChat(folder string) (*chat, error) {
	path := filepath.Join(folder, "messages.ndjson.gz")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Printf("%s is absent: using a small sample\n", path)
		return index(sample()), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var all []message
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return nil, fmt.Errorf("read %s, line %d: %w", path, len(all)+1, err)
		}
		all = append(all, m)
	}
	return index(all), lines.Err()
}

func index(all []message) *chat {
	c := &chat{all: all, byPerson: map[string][]message{}}
	for _, m := range all {
		c.byPerson[m.Nick] = append(c.byPerson[m.Nick], m)
	}
	for p := range c.byPerson {
		c.people = append(c.people, p)
	}
	sort.Slice(c.people, func(i, j int) bool {
		a, b := c.people[i], c.people[j]
		if len(c.byPerson[a]) != len(c.byPerson[b]) {
			return len(c.byPerson[a]) > len(c.byPerson[b])
		}
		return a < b
	})
	return c
}

// sample is a conversation small enough to make here.
func sample() []message {
	people := []string{"alice", "bob", "|carol|", `d\ave`, "[erin]"}
	lines := []string{"hello everybody", "does the install work for you?", "which kernel do you run?", "thanks, that helped",
		"see you tomorrow"}
	at := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	var all []message
	for i := range 500 {
		all = append(all, message{Channel: []string{"#ubuntu", "#help"}[i%2], At: at.Add(time.Duration(i) * 7 * time.Minute),
			Nick: people[i*3/2%len(people)], Kind: "message", Text: lines[i*7/3%len(lines)]})
	}
	return all
}
