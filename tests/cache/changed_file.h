// The file of a sequence (think/store.h), taken apart and changed by what its format says. Shares no code with the library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace cache_test {

// A file whose digest is made right again after a change, as somebody would who means harm. Sizes stay as they are, or change within the metadata.
class ChangedFile {
 public:
  explicit ChangedFile(std::string bytes) : bytes_(std::move(bytes)) {}

  // The first byte of element `index` of a tensor; NULL where there is no such tensor or element.
  template <class T>
  T *at(const std::string &name, int64_t index) {
    const size_t entry = bytes_.find("\"" + name + "\":{\"dtype\"");
    if (entry == std::string::npos) return nullptr;
    constexpr char kOffsets[] = "\"data_offsets\":[";
    const char *text = bytes_.c_str() + bytes_.find(kOffsets, entry) + sizeof kOffsets - 1;
    char *next = nullptr;
    const long long begin = std::strtoll(text, &next, 10), end = std::strtoll(next + 1, nullptr, 10);
    const int64_t place = begin + (index < 0 ? end - begin : 0) + index * static_cast<int64_t>(sizeof(T));
    if (place < begin || place + static_cast<int64_t>(sizeof(T)) > end) return nullptr;
    return reinterpret_cast<T *>(bytes_.data() + 8 + header_bytes() + static_cast<uint64_t>(place));
  }

  // Another text as a value of the metadata.
  bool describe(const std::string &name, const std::string &text) {
    const size_t entry = bytes_.find("\"" + name + "\":\"");
    if (entry == std::string::npos) return false;
    const size_t begin = entry + name.size() + 4, end = bytes_.find('"', begin);
    const uint64_t header = header_bytes() + text.size() - (end - begin);
    bytes_.replace(begin, end - begin, text);
    std::memcpy(bytes_.data(), &header, sizeof header);
    return true;
  }

  // The file with the digest that belongs to it.
  const std::string &repaired() {
    if (bytes_.size() < 16) return bytes_;
    const size_t end = bytes_.size() - 8;
    uint64_t state = 0x5468696E4B763031u;
    const auto word = [&](uint64_t bits) {
      state = (state ^ bits) * 0x9E3779B97F4A7C15u;
      state ^= state >> 32;
    };
    for (size_t at = 0; at <= end; at += 8) {  // the last word is filled up with zeros, even if it is empty
      uint64_t bits = 0;
      std::memcpy(&bits, bytes_.data() + at, std::min<size_t>(8, end - at));
      word(bits);
    }
    word(end);
    std::memcpy(bytes_.data() + end, &state, sizeof state);
    return bytes_;
  }

 private:
  uint64_t header_bytes() const {
    uint64_t bytes;
    std::memcpy(&bytes, bytes_.data(), sizeof bytes);
    return bytes;
  }
  std::string bytes_;
};

}  // namespace cache_test
