// Loops over the columns of a block, with a fixed number of them so that sums stay in registers.
#pragma once

namespace think::attend {
namespace {

template <int Value>
struct Constant {
  static constexpr int value = Value;
};

// Calls body(Constant<n>()) for n = columns, 1 <= columns <= kMost; kMost is 4 or 8.
template <int kMost, class Body>
inline void with_columns(int columns, const Body &body) {
  switch (columns) {
    case 1: return body(Constant<1>());
    case 2: return body(Constant<2>());
    case 3: return body(Constant<3>());
    case 4: return body(Constant<4>());
  }
  if constexpr (kMost == 8) {
    switch (columns) {
      case 5: return body(Constant<5>());
      case 6: return body(Constant<6>());
      case 7: return body(Constant<7>());
      case 8: return body(Constant<8>());
    }
  }
}

}  // namespace
}  // namespace think::attend
