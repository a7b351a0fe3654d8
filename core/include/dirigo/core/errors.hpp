// Errors: what the library throws. It never aborts, exits or prints.
//
// Messages read `WHAT: EXPECTED, got GOT`, for example
// `[linear] weight: expected (out, 128), got (64, 96)`.
#pragma once

#include <stdexcept>
#include <string>

namespace dirigo {

// The base of everything that Dirigo throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A tensor has the wrong shape, rank or dtype for the operation.
class ShapeError : public Error {
 public:
  using Error::Error;
};

// A value (option, hyper-parameter, index) lies outside its documented range.
class ValueError : public Error {
 public:
  using Error::Error;
};

// A file is missing, unreadable, unwritable, or does not hold what it should.
class IoError : public Error {
 public:
  using Error::Error;
};

// An object is used in a state that does not allow it (a stale handle, a second backward pass).
class StateError : public Error {
 public:
  using Error::Error;
};

// A computation left the finite numbers (NaN or infinite loss).
class NumericError : public Error {
 public:
  using Error::Error;
};

}  // namespace dirigo
