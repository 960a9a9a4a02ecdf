// GGUF reader: metadata and tensors of one file. Every length in the file is checked before it is used, because model files come from elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace generate {

class GgufFile {
public:
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<std::string>, std::vector<double>>;

  struct Tensor {
    std::vector<int64_t> extent; // as in the file: the fastest-running extent first
    uint32_t type = 0;
    const std::byte *data = nullptr;
    int64_t elements = 0;
  };

  explicit GgufFile(const std::string &path);
  ~GgufFile();
  GgufFile(const GgufFile &) = delete;
  GgufFile &operator=(const GgufFile &) = delete;

  bool has(const std::string &key) const { return metadata_.contains(key); }
  int64_t integer(const std::string &key) const;
  int64_t integer_or(const std::string &key, int64_t fallback) const { return has(key) ? integer(key) : fallback; }
  double number(const std::string &key) const;
  const std::string &text(const std::string &key) const;
  const std::vector<std::string> &texts(const std::string &key) const;
  const std::vector<double> &numbers(const std::string &key) const;

  bool has_tensor(const std::string &name) const { return tensors_.contains(name); }

  // Appends the tensor as f32, row after row, to `out`. The file must hold exactly [rows][columns].
  void append_f32(const std::string &name, int64_t rows, int64_t columns, std::vector<float> &out) const;

private:
  const Value &value(const std::string &key) const;
  void parse();

  std::string path_;
  const std::byte *map_ = nullptr;
  size_t bytes_ = 0;
  std::map<std::string, Value> metadata_;
  std::map<std::string, Tensor> tensors_;
};

} // namespace generate
