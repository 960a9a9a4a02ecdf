// C++ over the C interface: handles in smart pointers, failures as exceptions. Says what the library can do on this machine.
#include <think.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

struct Destroy {
  void operator()(think_context *context) const { think_context_destroy(context); }
  void operator()(think_plan *plan) const { think_plan_destroy(plan); }
};

/// A call that takes an error record last, which becomes an exception.
template <class Function, class... Arguments>
void call(Function function, Arguments... arguments) {
  think_error error = THINK_ERROR_INIT;
  if (function(arguments..., &error) != THINK_OK) throw std::runtime_error(error.message);
}

int64_t query(const think_context *context, int32_t key) {
  int64_t value = 0;
  call(think_query, context, key, &value);
  return value;
}

std::string reason(think_device device) {
  size_t needed = 0;
  call(think_backend_reason, device, nullptr, size_t{0}, &needed);
  std::string text(needed, '\0');
  call(think_backend_reason, device, &text[0], text.size(), nullptr);
  text.pop_back();
  return text;
}

void tell() {
  think_context *made = nullptr;
  call(think_context_create, nullptr, &made);
  const std::unique_ptr<think_context, Destroy> context(made);
  std::printf("libthink %s, ABI %d, instruction set %d, head sizes up to %d\n", think_version_string(), static_cast<int>(query(nullptr, THINK_QUERY_ABI)),
              static_cast<int>(query(context.get(), THINK_QUERY_ISA)), static_cast<int>(query(nullptr, THINK_QUERY_MAX_CHANNELS)));
  std::printf("CPU:  %s\nCUDA: %s\n", reason(THINK_DEVICE_CPU).c_str(), reason(THINK_DEVICE_CUDA).c_str());

  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = 9; // no multiple of the KV heads: refused, in words
  problem.kv_heads = 2;
  problem.key_channels = 64;
  think_plan *plan = nullptr;
  try {
    call(think_plan_create, context.get(), &problem, &plan);
    throw std::logic_error("9 query heads on 2 KV heads were accepted");
  } catch (const std::runtime_error &refused) {
    std::printf("9 query heads on 2 KV heads: %s\n", refused.what());
  }
  problem.query_heads = 8;
  call(think_plan_create, context.get(), &problem, &plan);
  const std::unique_ptr<think_plan, Destroy> held(plan);
}

} // namespace

int main() try {
  tell();
  return 0;
} catch (const std::exception &problem) {
  std::fprintf(stderr, "%s\n", problem.what());
  return 1;
}
