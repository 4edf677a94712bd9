package dberr

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const domain = "kalamdb"

// grpcCodes maps our codes to gRPC's, for clients that know only those.
var grpcCodes = map[Code]codes.Code{
	Internal: codes.Internal, InvalidSQL: codes.InvalidArgument, InvalidArgument: codes.InvalidArgument,
	Unsupported: codes.Unimplemented, InvalidOperation: codes.FailedPrecondition,
	TableNotFound: codes.NotFound, NamespaceNotFound: codes.NotFound, UserNotFound: codes.NotFound,
	ColumnNotFound: codes.NotFound, NotFound: codes.NotFound, AlreadyExists: codes.AlreadyExists,
	PrimaryKeyViolation: codes.AlreadyExists, NotNullViolation: codes.FailedPrecondition,
	UniqueViolation: codes.AlreadyExists, ValueOutOfRange: codes.OutOfRange,
	Unauthenticated: codes.Unauthenticated, TokenExpired: codes.Unauthenticated,
	AccountLocked: codes.Unauthenticated, PermissionDenied: codes.PermissionDenied,
	LimitExceeded: codes.ResourceExhausted, RateLimited: codes.ResourceExhausted,
	Timeout: codes.DeadlineExceeded, Canceled: codes.Canceled, Conflict: codes.Aborted,
	SchemaChanged: codes.Aborted, NotLeader: codes.Unavailable, Unavailable: codes.Unavailable,
	ResultLost: codes.FailedPrecondition, Lagged: codes.Aborted, PositionGone: codes.OutOfRange, Corrupt: codes.DataLoss,
}

// ToStatus turns err into a gRPC status error that FromStatus can read back. It returns nil for nil,
// and status errors as they are.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		if _, ok := status.FromError(err); ok {
			return err
		}
		e = classify(err)
	}
	st := status.New(grpcCodes[e.code], err.Error())
	withInfo, derr := st.WithDetails(&errdetails.ErrorInfo{Reason: string(e.code), Domain: domain, Metadata: e.fields})
	if derr != nil {
		return st.Err()
	}
	return withInfo.Err()
}

// FromStatus turns what a gRPC call returned into an *Error. It returns nil for nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return classify(err)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return &Error{code: Code(info.GetReason()), msg: st.Message(), fields: info.GetMetadata(), cause: err}
		}
	}
	return &Error{code: fromGRPC(st.Code()), msg: st.Message(), cause: err}
}

// classify finds the code of an error that is neither ours nor a status.
func classify(err error) *Error {
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{code: Canceled, msg: err.Error(), cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{code: Timeout, msg: err.Error(), cause: err}
	}
	return &Error{code: Internal, msg: err.Error(), cause: err}
}

func fromGRPC(c codes.Code) Code {
	switch c {
	case codes.Canceled:
		return Canceled
	case codes.DeadlineExceeded:
		return Timeout
	case codes.InvalidArgument:
		return InvalidArgument
	case codes.NotFound:
		return NotFound
	case codes.AlreadyExists:
		return AlreadyExists
	case codes.PermissionDenied:
		return PermissionDenied
	case codes.ResourceExhausted:
		return LimitExceeded
	case codes.Unimplemented:
		return Unsupported
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.Unavailable:
		return Unavailable
	}
	return Internal
}
