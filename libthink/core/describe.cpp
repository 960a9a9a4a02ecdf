#include "libthink/core/describe.h"

#include <charconv>
#include <cstring>

#include "libthink/core/device.h"
#include "libthink/core/workspace.h"

namespace think {
namespace {

// Keys and texts are the library's own and need no escapes; numbers do not depend on the locale of the host.
class JsonWriter {
 public:
  JsonWriter(char *text, size_t capacity) : text_(text), capacity_(capacity) {}

  void open(const char *key = nullptr) {
    start(key);
    put("{");
    first_ = true;
  }
  void close() {
    put("}");
    first_ = false;
  }
  void text(const char *key, const char *value) {
    start(key);
    put("\"");
    put(value);
    put("\"");
  }
  void integer(const char *key, int64_t value) {
    char digits[24];
    *std::to_chars(digits, digits + sizeof digits - 1, value).ptr = 0;
    start(key);
    put(digits);
  }
  void number(const char *key, double value) {
    start(key);
    put(NumberText(value).text);
  }
  size_t finish() {
    if (capacity_ > 0) text_[used_ < capacity_ ? used_ : capacity_ - 1] = 0;
    return used_ + 1;
  }

 private:
  void start(const char *key) {
    if (!first_) put(",");
    first_ = false;
    if (!key) return;
    put("\"");
    put(key);
    put("\":");
  }
  void put(const char *piece) {
    const size_t length = std::strlen(piece);
    if (used_ < capacity_) std::memcpy(text_ + used_, piece, length < capacity_ - used_ ? length : capacity_ - used_);
    used_ += length;
  }

  char *text_;
  size_t capacity_, used_ = 0;
  bool first_ = true;
};

void put_problem(JsonWriter &json, const Shape &shape) {
  json.open("problem");
  json.text("query_dtype", dtype_name(shape.query_dtype));
  json.text("cache_dtype", dtype_name(shape.cache_dtype));
  json.text("output_dtype", dtype_name(shape.output_dtype));
  json.integer("query_heads", shape.query_heads);
  json.integer("kv_heads", shape.kv_heads);
  json.integer("key_channels", shape.key_channels);
  json.integer("value_channels", shape.value_channels);
  json.integer("window", shape.window);
  json.integer("max_batch", shape.max_batch);
  json.integer("max_queries", shape.max_queries);
  json.integer("max_tokens", shape.max_tokens);
  json.number("scale", shape.scale);
  json.number("softcap", shape.softcap);
  json.close();
}

// The unit that a stage runs: only attend has dot products, of integers, for quantized tiles. BF16 ones would round where the other units do not.
int32_t kernel_isa(int32_t stage, int32_t isa) { return isa == THINK_ISA_AVX512BF16 && stage != THINK_STAGE_ATTEND ? THINK_ISA_AVX512 : isa; }

const char *kernel_reason(int32_t stage, const think_plan &plan) {
  if (kernel_isa(stage, plan.isa) != plan.isa) return "the next lower instruction set: this stage has no avx512bf16 kernel";
  return plan.context->isa.forced ? "forced by THINK_CPU_ISA" : "the best instruction set of this build and host";
}

void put_stages(JsonWriter &json, const think_plan &plan) {
  const CallExtent extent = largest_extent(plan.shape);
  json.open("stages");
  for (int32_t stage = kFirstStage; stage <= kLastStage; ++stage) {
    json.open(stage_name(stage));
    if (plan.context->cuda) {
      json.text("kernel", "cuda");
      json.text("why", "one kernel family for all architectures");
    } else if (stage == THINK_STAGE_PRUNE) {
      json.text("kernel", "composed");
      json.text("why", "runs moments, select, fit and compact one after the other");
    } else if (stage == THINK_STAGE_EVICT) {
      json.text("kernel", "composed");
      json.text("why", "attention mass of moments, then one choice for all instruction sets");
    } else if (stage == THINK_STAGE_SELECT || stage == THINK_STAGE_FIT) {
      json.text("kernel", "baseline");
      json.text("why", "one kernel for all instruction sets");
    } else {
      json.text("kernel", isa_name(kernel_isa(stage, plan.isa)));
      json.text("why", kernel_reason(stage, plan));
    }
    json.integer("workspace_bytes", workspace_bytes(plan, stage, extent));
    json.close();
  }
  json.close();
}

// One new query of one sequence against a full dense cache: what it must read and write at least.
void put_decode(JsonWriter &json, const Shape &shape) {
  const int64_t cache = shape.max_tokens * shape.kv_heads * (int64_t{shape.key_channels} + shape.value_channels) * dtype_bytes(shape.cache_dtype);
  const int64_t fresh = int64_t{shape.query_heads} *
                        (int64_t{shape.key_channels} * dtype_bytes(shape.query_dtype) + int64_t{shape.value_channels} * dtype_bytes(shape.output_dtype));
  const int64_t bytes = cache + fresh;
  json.open("dense_decode");
  json.integer("tokens", shape.max_tokens);
  json.integer("bytes", bytes);
  json.number("milliseconds_at_1_gb_per_s", static_cast<double>(bytes) / 1e6);
  json.close();
}

}  // namespace

size_t describe_plan(const think_plan &plan, char *text, size_t capacity) {
  JsonWriter json(text, capacity);
  json.open();
  json.text("version", think_version_string());
  json.text("device", plan.context->cuda ? "cuda" : "cpu");
  json.integer("device_index", plan.context->device_index);
  if (plan.context->cuda) {
    json.text("isa", Text("sm_%d%d", plan.context->device.major, plan.context->device.minor).text);
    json.integer("multiprocessors", plan.context->device.multiprocessors);
  } else {
    json.text("isa", isa_name(plan.isa));
  }
  json.integer("threads", plan.parallel.threads);
  json.text("threads_of", plan.parallel.threads <= 1 ? "the caller" : plan.context->parallel_for ? "the host" : "the library");
  put_problem(json, plan.shape);
  put_stages(json, plan);
  put_decode(json, plan.shape);
  json.close();
  return json.finish();
}

}  // namespace think
