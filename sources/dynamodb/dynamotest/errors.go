package dynamotest

import (
	"encoding/json"
	"fmt"
)

// Namespaces of the service's error types, as they stand before the # in
// __type.
const (
	dynamoError     = "com.amazonaws.dynamodb.v20120810#"
	coralError      = "com.amazon.coral.service#"
	validationError = "com.amazon.coral.validate#ValidationException"
)

// An apiError is a refusal that the client sees.
type apiError struct {
	status  int
	kind    string // __type
	message string
	item    []byte // with ConditionalCheckFailedException, the item as it is
}

func (e *apiError) Error() string { return e.kind + ": " + e.message }

// body is the error as the service renders it: the member is called message in
// DynamoDB's own errors and Message in some of the front end's, and clients
// accept both.
func (e *apiError) body() []byte {
	out, _ := json.Marshal(struct { // strings and valid JSON always marshal
		Type    string          `json:"__type"`
		Item    json.RawMessage `json:"Item,omitempty"`
		Message string          `json:"message"`
	}{e.kind, e.item, e.message})
	return out
}

func validation(format string, args ...any) *apiError {
	return &apiError{400, validationError, fmt.Sprintf(format, args...), nil}
}

// unsupported refuses what the service can do and we can't, so that no test
// passes by our ignoring it.
func unsupported(what string) *apiError {
	return validation("dynamotest does not support %s", what)
}

func notFound(message string) *apiError {
	return &apiError{400, dynamoError + "ResourceNotFoundException", message, nil}
}
