// Package link is the cloud-edge link as Go programs see it: its documents through encoding/json, its frames
// through gorilla/websocket. Written from the description of the wire, for peers that tests run.
package link

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"
)

type Header struct {
	ID              string `json:"msg_id"`
	ParentID        string `json:"parent_msg_id,omitempty"`
	Timestamp       int64  `json:"timestamp"`
	ResourceVersion string `json:"resourceversion,omitempty"`
	Sync            bool   `json:"sync,omitempty"`
	Type            string `json:"type,omitempty"`
}

type Route struct {
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	Group       string `json:"group,omitempty"`
	Operation   string `json:"operation,omitempty"`
	Resource    string `json:"resource,omitempty"`
}

// Message is one frame. Content is what encoding/json makes of it: text, number, map, list or nil.
type Message struct {
	Header  Header      `json:"header"`
	Route   Route       `json:"route,omitempty"`
	Content interface{} `json:"content"`
}

// New makes a message with an id and the time.
func New(parent string, route Route, content interface{}) Message {
	header := Header{ID: newID(), ParentID: parent, Timestamp: time.Now().UnixNano() / 1e6}
	return Message{Header: header, Route: route, Content: content}
}

func newID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Data is the payload as a receiver takes it: text as it is, everything else as JSON again.
func (m Message) Data() ([]byte, error) {
	if text, ok := m.Content.(string); ok {
		return []byte(text), nil
	}
	return json.Marshal(m.Content)
}

// Into parses the payload.
func (m Message) Into(target interface{}) error {
	data, err := m.Data()
	if err != nil {
		return err
	}
	return json.Unmarshal(data, target)
}

// Status is the part of a Kubernetes Status that decides what an edge does.
type Status struct {
	Metadata map[string]interface{} `json:"metadata"`
	Status   string                 `json:"status,omitempty"`
	Message  string                 `json:"message,omitempty"`
	Reason   string                 `json:"reason,omitempty"`
	Code     int                    `json:"code,omitempty"`
}

// Failure marshals as Go's StatusError: one key, no tag.
type Failure struct {
	ErrStatus Status
}

// ObjectResp answers writes: two keys, no tags.
type ObjectResp struct {
	Object map[string]interface{}
	Err    *Failure
}

// --- devices ---------------------------------------------------------------------------------------

type Member struct {
	ID          string `json:"id,omitempty"`
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
}

type Membership struct {
	EventID   string   `json:"event_id"`
	Timestamp int64    `json:"timestamp"`
	Added     []Member `json:"added_devices"`
	Removed   []Member `json:"removed_devices"`
}

type ValueMeta struct {
	Timestamp int64 `json:"timestamp,omitempty"`
}

type Value struct {
	Value *string    `json:"value,omitempty"`
	Meta  *ValueMeta `json:"metadata,omitempty"`
}

type Version struct {
	Cloud int64 `json:"cloud"`
	Edge  int64 `json:"edge"`
}

type TypeMeta struct {
	Type string `json:"type,omitempty"`
}

type Twin struct {
	Expected        *Value    `json:"expected,omitempty"`
	Actual          *Value    `json:"actual,omitempty"`
	Optional        *bool     `json:"optional,omitempty"`
	Meta            *TypeMeta `json:"metadata,omitempty"`
	ExpectedVersion *Version  `json:"expected_version,omitempty"`
	ActualVersion   *Version  `json:"actual_version,omitempty"`
}

type TwinUpdate struct {
	EventID   string           `json:"event_id"`
	Timestamp int64            `json:"timestamp"`
	Twin      map[string]*Twin `json:"twin"`
}
