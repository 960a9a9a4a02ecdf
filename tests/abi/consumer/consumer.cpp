// A C++ program against the installed package: asks what is there and reads an error.
#include <think.h>

#include <cstdio>
#include <memory>
#include <string>

int main() {
  think_error error = THINK_ERROR_INIT;
  think_context *raw = nullptr;
  if (think_context_create(nullptr, &raw, &error) != THINK_OK) {
    std::fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  const std::unique_ptr<think_context, decltype(&think_context_destroy)> context(raw, think_context_destroy);
  int64_t abi = 0, channels = 0;
  if (think_query(context.get(), THINK_QUERY_ABI, &abi, &error) != THINK_OK || abi != THINK_ABI_MAJOR) return 1;
  if (think_query(context.get(), THINK_QUERY_MAX_CHANNELS, &channels, &error) != THINK_OK || channels != 256) return 1;
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = 9;
  problem.kv_heads = 2;
  problem.key_channels = 64;
  if (think_supports(context.get(), &problem, &error) != THINK_E_ARGUMENT || error.argument != 2) return 1;
  if (std::string(error.message).find("problem->query_heads") == std::string::npos) return 1;
  std::printf("libthink %s\n", think_version_string());
  return 0;
}
