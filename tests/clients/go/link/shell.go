package link

import (
	"bufio"
	"encoding/json"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

// Conn writes messages from several goroutines.
type Conn struct {
	mutex sync.Mutex
	ws    *websocket.Conn
}

func NewConn(ws *websocket.Conn) *Conn { return &Conn{ws: ws} }

// Send writes one message as encoding/json and gorilla do: escaped for HTML, a newline at its end, a text frame.
func (c *Conn) Send(m Message) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.ws.WriteJSON(m)
}

// Receive reads one message.
func (c *Conn) Receive() (Message, error) {
	var m Message
	err := c.ws.ReadJSON(&m)
	return m, err
}

func (c *Conn) Close() { c.ws.Close() }

var stdout sync.Mutex

// Tell prints one event for the test, a JSON object on a line.
func Tell(event string, facts map[string]interface{}) {
	if facts == nil {
		facts = map[string]interface{}{}
	}
	facts["event"] = event
	stdout.Lock()
	defer stdout.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(facts); err != nil {
		os.Exit(1)
	}
}

// Fail prints why, and ends the program.
func Fail(what string, err error) {
	Tell("failed", map[string]interface{}{"what": what, "cause": err.Error()})
	os.Exit(1)
}

// Command is one line that the test writes: a message to send.
type Command struct {
	Parent          string      `json:"parent"`
	ResourceVersion string      `json:"resourceversion"`
	Route           Route       `json:"route"`
	Content         interface{} `json:"content"`
}

// Obey sends what the test asks for until its end closes; each message's id is told.
func Obey(send func(Message) error) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 64*1024), 16*1024*1024)
	for lines.Scan() {
		var command Command
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			Fail("a command", err)
		}
		message := New(command.Parent, command.Route, command.Content)
		message.Header.ResourceVersion = command.ResourceVersion
		if err := send(message); err != nil {
			Fail("sending", err)
		}
		Tell("sent", map[string]interface{}{"id": message.Header.ID})
	}
}
