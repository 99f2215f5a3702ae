package dynamotest

import (
	"sync/atomic"
	"time"
)

// FaultKind is a way to misbehave.
type FaultKind string

// Faults that refuse a request before it takes effect. The first three are the
// ways in which DynamoDB throttles.
const (
	ThroughputExceeded   FaultKind = "ProvisionedThroughputExceededException"
	Throttling           FaultKind = "ThrottlingException"
	RequestLimitExceeded FaultKind = "RequestLimitExceeded"
	InternalServerError  FaultKind = "InternalServerError"         // HTTP 500
	ServiceUnavailable   FaultKind = "ServiceUnavailableException" // HTTP 503
	ExpiredToken         FaultKind = "ExpiredTokenException"
	UnrecognizedClient   FaultKind = "UnrecognizedClientException" // an access key that was deleted
	AccessDenied         FaultKind = "AccessDeniedException"
	LimitExceeded        FaultKind = "LimitExceededException"     // how DynamoDB Streams throttles
	ExpiredIterator      FaultKind = "ExpiredIteratorException"   // by GetRecords
	TrimmedDataAccess    FaultKind = "TrimmedDataAccessException" // by GetShardIterator and GetRecords
	UnknownOperation     FaultKind = "UnknownOperationException"  // as of an emulator that lacks it
	ResetConnection      FaultKind = "reset connection"           // a TCP RST instead of a response
)

// Faults that spoil the response of a request that has taken effect.
const (
	ResetMidBody FaultKind = "reset mid-body" // half the body, then a TCP RST
	Truncate     FaultKind = "truncate"       // half the body, then the connection ends
	CorruptByte  FaultKind = "corrupt byte"   // one wrong byte in mid-body under the CRC of the right ones
	WrongCRC     FaultKind = "wrong CRC"      // the right body under a wrong X-Amz-Crc32
)

// Unprocessed has a BatchWriteItem or a BatchGetItem leave its last item unprocessed, or
// the last half of them, as the service does when it is short of capacity.
const Unprocessed FaultKind = "unprocessed items"

// EmptyPage has a GetRecords return no record, and an iterator of the same place.
const EmptyPage FaultKind = "empty page"

// Delay holds a request up for Fault.Delay before it takes effect. Other
// faults of the same request still happen.
const Delay FaultKind = "delay"

// A Fault makes the server misbehave. All conditions must hold for it to fire;
// the zero value of each means that it does not restrict the fault. Change no
// field after SetFaults.
type Fault struct {
	Kind        FaultKind
	Operation   string              // only requests of this operation, such as "Scan"
	Match       func(*Request) bool // only requests for which it returns true; called with a lock held
	After       int                 // let this many requests that match pass first
	Count       int                 // fire this many times at most
	Probability float64             // fire by chance, drawn with Options.Seed; from 0 (always) to 1
	Delay       time.Duration       // for the kind Delay

	matched int // under Server.mu
	fired   atomic.Int64
}

// Fired returns how often the fault has fired. It may be called at any time.
func (f *Fault) Fired() int { return int(f.fired.Load()) }

// A Request is what a fault may choose by.
type Request struct {
	Operation string // such as "Scan"
	Number    int    // this is the how-manieth request of its operation, from 1
	AccessKey string // whose signature it carries, which is not checked
	Body      []byte // DynamoDB JSON; not to be changed
}

// fires decides about one request. The caller holds Server.mu.
func (f *Fault) fires(s *Server, r *Request) bool {
	if f.Operation != "" && f.Operation != r.Operation || f.Match != nil && !f.Match(r) {
		return false
	}
	f.matched++
	if f.matched <= f.After || f.Count > 0 && f.Fired() >= f.Count {
		return false
	}
	if f.Probability > 0 && s.random.Float64() >= f.Probability {
		return false
	}
	f.fired.Add(1)
	return true
}

// refusal is the error of a fault that refuses the request, or nil.
func (f *Fault) refusal(operation, arn string) *apiError {
	switch f.Kind {
	case LimitExceeded:
		return &apiError{400, dynamoError + string(f.Kind), "Rate exceeded for stream.", nil}
	case ExpiredIterator:
		return &apiError{400, dynamoError + string(f.Kind), "The shard iterator has expired. Shard iterators are only valid for 15 minutes", nil}
	case TrimmedDataAccess:
		return &apiError{400, dynamoError + string(f.Kind), "The operation attempted to read past the oldest stream record in a shard.", nil}
	case ThroughputExceeded:
		return &apiError{400, dynamoError + string(f.Kind), "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level with the UpdateTable API.", nil}
	case Throttling:
		return &apiError{400, "com.amazon.coral.availability#ThrottlingException", "Rate of requests exceeds the allowed throughput.", nil}
	case RequestLimitExceeded:
		return &apiError{400, dynamoError + string(f.Kind), "Throughput exceeds the current throughput limit for your account.", nil}
	case InternalServerError:
		return &apiError{500, dynamoError + string(f.Kind), "Internal server error", nil}
	case ServiceUnavailable:
		return &apiError{503, "com.amazon.coral.availability#ServiceUnavailableException", "Service is unavailable, try again.", nil}
	case ExpiredToken:
		return &apiError{400, coralError + string(f.Kind), "The security token included in the request is expired", nil}
	case UnrecognizedClient:
		return &apiError{400, coralError + string(f.Kind), "The security token included in the request is invalid.", nil}
	case UnknownOperation:
		return &apiError{400, coralError + string(f.Kind), "", nil}
	case AccessDenied:
		return &apiError{400, coralError + string(f.Kind), "User: arn:aws:iam::000000000000:user/dynamotest is not authorized to perform: dynamodb:" + operation + " on resource: " + arn + " because no identity-based policy allows the dynamodb:" + operation + " action", nil}
	}
	return nil
}
