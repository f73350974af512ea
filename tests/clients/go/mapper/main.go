// A mapper on grpc-go, as KubeEdge's own are: it registers at EdgeCore's socket, serves one of its own, and
// tells on its output what it was told. Messages are made from the definition that is named, not generated.
//
// Commands on the input, one JSON object a line: {"method": "MapperRegister", "request": {...}}.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

const callTime = 20 * time.Second

var output sync.Mutex

func tell(event string, facts map[string]any) {
	facts["event"] = event
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(line))
}

func fail(err error) {
	tell("failed", map[string]any{"reason": err.Error()})
	os.Exit(1)
}

func compile(path string) (protoreflect.FileDescriptor, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(
			&protocompile.SourceResolver{ImportPaths: []string{filepath.Dir(path)}},
		),
	}
	files, err := compiler.Compile(context.Background(), filepath.Base(path))
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

func asJSON(message *dynamicpb.Message) (json.RawMessage, error) {
	return protojson.Marshal(message)
}

// serve answers each call of the mapper's service with an empty message, and tells it.
func serve(service protoreflect.ServiceDescriptor, path string) error {
	described := grpc.ServiceDesc{ServiceName: string(service.FullName()), HandlerType: (*any)(nil)}
	for i := 0; i < service.Methods().Len(); i++ {
		method := service.Methods().Get(i)
		described.Methods = append(described.Methods, grpc.MethodDesc{
			MethodName: string(method.Name()),
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := dynamicpb.NewMessage(method.Input())
				if err := decode(request); err != nil {
					return nil, err
				}
				text, err := asJSON(request)
				if err != nil {
					return nil, err
				}
				tell("told", map[string]any{"method": string(method.Name()), "request": text})
				return dynamicpb.NewMessage(method.Output()), nil
			},
		})
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&described, struct{}{})
	go func() {
		if err := server.Serve(listener); err != nil {
			fail(err)
		}
	}()
	return nil
}

type command struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

func call(connection *grpc.ClientConn, service protoreflect.ServiceDescriptor, asked command) {
	method := service.Methods().ByName(protoreflect.Name(asked.Method))
	request := dynamicpb.NewMessage(method.Input())
	if err := protojson.Unmarshal(asked.Request, request); err != nil {
		fail(err)
	}
	answer := dynamicpb.NewMessage(method.Output())
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", service.FullName(), method.Name())
	err := connection.Invoke(ctx, path, request, answer)
	if err != nil {
		state := status.Convert(err)
		tell("answer", map[string]any{
			"method": asked.Method, "status": state.Code().String(), "reason": state.Message(),
		})
		return
	}
	text, err := asJSON(answer)
	if err != nil {
		fail(err)
	}
	tell("answer", map[string]any{"method": asked.Method, "status": "OK", "answer": text})
}

func main() {
	proto := flag.String("proto", "", "file of the definition")
	edge := flag.String("edge", "", "EdgeCore's socket")
	own := flag.String("socket", "", "the mapper's socket")
	flag.Parse()
	file, err := compile(*proto)
	if err != nil {
		fail(err)
	}
	if err := serve(file.Services().ByName("DeviceMapperService"), *own); err != nil {
		fail(err)
	}
	connection, err := grpc.NewClient(
		"unix:"+*edge, grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		fail(err)
	}
	tell("listening", map[string]any{})
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 16*1024*1024)
	for input.Scan() {
		var asked command
		if err := json.Unmarshal(input.Bytes(), &asked); err != nil {
			fail(err)
		}
		call(connection, file.Services().ByName("DeviceManagerService"), asked)
	}
}
