// Package headers holds the public C headers of libthink, written by bindings/tools/regenerate.sh. It is a Go package so that they are vendored.
package headers
