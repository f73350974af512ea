// Either end of the stream tunnel as a stranger writes it, with gorilla/websocket and encoding/json.
//
//	tunnel -role edge  -cert NODE.pem   -ca CA.pem -server HOST:PORT -node NAME -kubelet HOST:PORT
//	tunnel -role cloud -cert SERVER.pem -ca CA.pem
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"twinspan.test/peers/link"
)

const (
	logs uint64 = iota
	exec
	metrics
	data
	remove
	closing
	attach
)

const path = "/v1/kubeedge/connect"

var (
	role    = flag.String("role", "edge", "which end: edge or cloud")
	cert    = flag.String("cert", "", "PEM file of key and certificate")
	ca      = flag.String("ca", "", "PEM file of the CA")
	server  = flag.String("server", "", "where the cloud's end listens, host:port")
	node    = flag.String("node", "go-edge", "name of the node")
	kubelet = flag.String("kubelet", "", "where requests of the edge's end go, host:port")
)

// connect opens a connection: untagged and tagged members as Go marshals them.
type connect struct {
	MessID uint64
	URL    url.URL     `json:"url"`
	Header http.Header `json:"header"`
	Method string      `json:"method,omitempty"`
}

type tunnel struct {
	ws    *websocket.Conn
	mutex sync.Mutex
	open  map[uint64]func([]byte)
	ends  map[uint64]func()
}

func main() {
	flag.Parse()
	config, err := settings()
	if err != nil {
		link.Fail("the certificates", err)
	}
	if *role == "edge" {
		dial(config)
	} else {
		listen(config)
	}
}

func settings() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(*cert, *cert)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("no CA in the file")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"},
	}, nil
}

// --- frames ----------------------------------------------------------------------------------------

// send writes one frame: two varints and bytes that need not be text, in a text frame.
func (t *tunnel) send(number, kind uint64, bytes []byte) error {
	frame := binary.AppendUvarint(binary.AppendUvarint(nil, number), kind)
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.ws.WriteMessage(websocket.TextMessage, append(frame, bytes...))
}

func (t *tunnel) receive() (uint64, uint64, []byte, error) {
	_, frame, err := t.ws.ReadMessage()
	if err != nil {
		return 0, 0, nil, err
	}
	reader := bytes.NewReader(frame)
	number, err := binary.ReadUvarint(reader)
	if err != nil {
		return 0, 0, nil, err
	}
	kind, err := binary.ReadUvarint(reader)
	if err != nil {
		return 0, 0, nil, err
	}
	rest, err := io.ReadAll(reader)
	return number, kind, rest, err
}

func (t *tunnel) set(number uint64, take func([]byte), end func()) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.open[number], t.ends[number] = take, end
}

func (t *tunnel) of(number uint64) (func([]byte), func()) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.open[number], t.ends[number]
}

// --- the edge's end --------------------------------------------------------------------------------

func dial(config *tls.Config) {
	dialer := websocket.Dialer{TLSClientConfig: config, HandshakeTimeout: 30 * time.Second}
	header := http.Header{"SessionHostNameOverride": {*node}, "SessionInternalIP": {"192.0.2.7"}}
	ws, answer, err := dialer.Dial("wss://"+*server+path, header)
	if err != nil {
		if answer != nil {
			err = fmt.Errorf("%s: %w", answer.Status, err)
		}
		link.Fail("the tunnel", err)
	}
	link.Tell("connected", nil)
	t := &tunnel{ws: ws, open: map[uint64]func([]byte){}, ends: map[uint64]func(){}}
	go func() {
		for range time.Tick(time.Second) {
			ws.WriteControl(websocket.PingMessage, []byte("ping you"), time.Now().Add(time.Second))
		}
	}()
	for {
		number, kind, bytes, err := t.receive()
		if err != nil {
			link.Tell("closed", map[string]interface{}{"cause": err.Error()})
			return
		}
		t.obey(number, kind, bytes)
	}
}

func (t *tunnel) obey(number, kind uint64, bytes []byte) {
	switch kind {
	case logs, metrics, exec, attach:
		var c connect
		if err := json.Unmarshal(bytes, &c); err != nil {
			link.Fail("a connect frame", err)
		}
		link.Tell("asked", map[string]interface{}{
			"connection": number, "id": c.MessID, "type": kind, "method": c.Method, "url": c.URL.String(),
			"upgrade": c.Header.Get("Upgrade"),
		})
		c.URL.Host = *kubelet
		if kind == exec || kind == attach {
			go t.shell(number, c)
		} else {
			go t.fetch(number, kind, c)
		}
	case data:
		if take, _ := t.of(number); take != nil {
			take(bytes)
		}
	case closing, remove:
		if _, end := t.of(number); end != nil {
			end()
		}
	}
}

func (t *tunnel) fetch(number, kind uint64, c connect) {
	defer t.send(number, remove, nil)
	request, err := http.NewRequest(http.MethodGet, c.URL.String(), nil)
	if err != nil {
		return
	}
	request.Header = c.Header
	if kind == metrics {
		request.Header.Set("Accept-Encoding", "identity")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		link.Tell("kubelet", map[string]interface{}{"cause": err.Error()})
		return
	}
	defer answer.Body.Close()
	t.set(number, nil, func() {
		link.Tell("ended", map[string]interface{}{"connection": number})
		answer.Body.Close()
	})
	if kind == metrics {
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			t.send(number, data, append(lines.Bytes(), '\n'))
		}
		return
	}
	buffer := make([]byte, 256)
	for {
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			t.send(number, data, buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

func (t *tunnel) shell(number uint64, c connect) {
	defer t.send(number, remove, nil)
	local, err := net.Dial("tcp", *kubelet)
	if err != nil {
		return
	}
	defer local.Close()
	request, err := http.NewRequest(c.Method, c.URL.String(), nil)
	if err != nil {
		return
	}
	request.Header = c.Header
	t.set(number, func(bytes []byte) { local.Write(bytes) }, func() { local.Close() })
	if err := request.Write(local); err != nil {
		return
	}
	buffer := make([]byte, 256)
	for {
		n, err := local.Read(buffer)
		if n > 0 {
			t.send(number, data, buffer[:n])
		}
		if err != nil {
			link.Tell("ended", map[string]interface{}{"connection": number})
			return
		}
	}
}

// --- the cloud's end -------------------------------------------------------------------------------

func listen(config *tls.Config) {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		link.Fail("listening", err)
	}
	tunnels := make(chan *tunnel, 1)
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { accept(w, r, tunnels) })
	go http.Serve(listener, mux)
	link.Tell("listening", map[string]interface{}{"tunnel": listener.Addr().String()})
	t := <-tunnels
	commands := json.NewDecoder(os.Stdin)
	for {
		var command struct {
			Connection, Type          uint64
			Method, Path, Query, Text string
			Header                    http.Header
		}
		if err := commands.Decode(&command); err != nil {
			return
		}
		content := []byte(command.Text)
		if command.Path != "" {
			asked := url.URL{Scheme: "http", Host: "127.0.0.1:10350", Path: command.Path, RawQuery: command.Query}
			content, err = json.Marshal(connect{command.Connection, asked, command.Header, command.Method})
			if err != nil {
				link.Fail("a connect frame", err)
			}
		}
		if err := t.send(command.Connection, command.Type, content); err != nil {
			link.Fail("sending", err)
		}
	}
}

func accept(w http.ResponseWriter, r *http.Request, tunnels chan *tunnel) {
	upgrader := websocket.Upgrader{}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		link.Tell("refused", map[string]interface{}{"cause": err.Error()})
		return
	}
	link.Tell("connected", map[string]interface{}{
		"node": r.Header.Get("SessionHostNameOverride"), "address": r.Header.Get("SessionInternalIP"),
		"subject": r.TLS.PeerCertificates[0].Subject.String(),
	})
	pong := ws.PingHandler()
	ws.SetPingHandler(func(text string) error {
		link.Tell("ping", map[string]interface{}{"text": text})
		return pong(text)
	})
	t := &tunnel{ws: ws}
	tunnels <- t
	for {
		number, kind, bytes, err := t.receive()
		if err != nil {
			link.Tell("closed", map[string]interface{}{"cause": err.Error()})
			return
		}
		link.Tell("frame", map[string]interface{}{"connection": number, "type": kind, "data": bytes})
	}
}
