package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// action is one change of the server's state: a file with a message of resources, and where it goes.
type action struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Body   string `json:"body"`
}

// prepare reads what is sent, so that a change is no more than the request. It may take `most`.
func prepare(actions []action, most time.Duration) (func() error, error) {
	client := &http.Client{Timeout: most}
	var steps []func() error
	for _, a := range actions {
		body, err := os.ReadFile(a.Body)
		if err != nil {
			return nil, err
		}
		steps = append(steps, func() error { return request(client, a.Method, a.URL, body) })
	}
	return func() error {
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func request(client *http.Client, method, url string, body []byte) error {
	made, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	made.Header.Set("Content-Type", "application/x-protobuf")
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	return nil
}
