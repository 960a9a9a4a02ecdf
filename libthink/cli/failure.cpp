#include "failure.h"

namespace think::cli {

std::string printable(const std::string &text, size_t limit) {
  std::string result;
  for (const char character : text) {
    if (result.size() >= limit) return result + "...";
    const unsigned char code = static_cast<unsigned char>(character);
    if (code < 0x20 || code >= 0x7f) {
      static const char *digits = "0123456789abcdef";
      result += {'\\', 'x', digits[code >> 4], digits[code & 15]};
    } else {
      result += character;
    }
  }
  return result;
}

}  // namespace think::cli
