// Prints what Go's own resolver says of each name: its addresses, or whether it was not found.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		said, err := resolver.LookupHost(context.Background(), name)
		var failed *net.DNSError
		switch {
		case errors.As(err, &failed) && failed.IsNotFound:
			said = []string{"not-found"}
		case err != nil:
			said = []string{err.Error()}
		}
		sort.Strings(said)
		fmt.Println(name, strings.Join(said, " "))
	}
}
