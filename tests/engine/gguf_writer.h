// Writes GGUF files for tests, byte by byte, right or wrong.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

namespace engine_test {

class GgufWriter {
public:
  static constexpr uint32_t kU32 = 4, kF32 = 6, kString = 8, kArray = 9;

  template <typename T> static std::string raw(T value) { return std::string(reinterpret_cast<const char *>(&value), sizeof value); }
  static std::string text(const std::string &value) { return raw<uint64_t>(value.size()) + value; }

  void add_u32(const std::string &key, uint32_t value) { add(key, kU32, raw(value)); }
  void add_f32(const std::string &key, float value) { add(key, kF32, raw(value)); }
  void add_text(const std::string &key, const std::string &value) { add(key, kString, text(value)); }
  void add_texts(const std::string &key, const std::vector<std::string> &values) {
    std::string body = raw(kString) + raw<uint64_t>(values.size());
    for (const std::string &value : values) body += text(value);
    add(key, kArray, body);
  }
  void add_numbers(const std::string &key, const std::vector<uint32_t> &values) {
    std::string body = raw(kU32) + raw<uint64_t>(values.size());
    for (const uint32_t value : values) body += raw(value);
    add(key, kArray, body);
  }
  void add(const std::string &key, uint32_t type, const std::string &body) {
    values_ += text(key) + raw(type) + body;
    ++value_count_;
  }
  void add_tensor(const std::string &name, const std::vector<uint64_t> &extent, uint32_t type, const std::string &data) {
    tensors_ += text(name) + raw<uint32_t>(static_cast<uint32_t>(extent.size()));
    for (const uint64_t e : extent) tensors_ += raw(e);
    tensors_ += raw(type) + raw<uint64_t>(data_.size());
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32, '\0');
    ++tensor_count_;
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw<uint32_t>(3) + raw(tensor_count_) + raw(value_count_) + values_ + tensors_;
    out.resize((out.size() + 31) / 32 * 32, '\0');
    return out + data_;
  }

private:
  std::string values_, tensors_, data_;
  uint64_t value_count_ = 0, tensor_count_ = 0;
};

// A file that is gone at the end of the test.
class ScratchFile {
public:
  explicit ScratchFile(const std::string &bytes) {
    static int counter = 0;
    path_ = std::filesystem::temp_directory_path() / ("think-engine-" + std::to_string(getpid()) + "-" + std::to_string(counter++) + ".gguf");
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  ~ScratchFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

private:
  std::filesystem::path path_;
};

} // namespace engine_test
