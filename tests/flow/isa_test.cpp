// Which instruction set a context uses: the best of the host, or a lower one that the environment names.
#include "cache.h"
#include "tests/stages/instruction_sets.h"

namespace flow {
namespace {

think_problem any_problem() {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = problem.kv_heads = 1;
  problem.key_channels = 64;
  return problem;
}

TEST(Isa, TheBestIsTheDefault) {
  const char *forced = std::getenv("THINK_CPU_ISA");
  const std::vector<Isa> isas = available_isas();
  ASSERT_EQ(THINK_ISA_PORTABLE, isas.front().id) << "every host can run the portable kernels";
  if (forced && *forced) {
    EXPECT_EQ(isas.front().id, Plan(any_problem(), "portable").isa());
    return;
  }
  EXPECT_EQ(isas.back().id, Plan(any_problem()).isa());
}

// As the compiler's own detection says; everything else here believes the library.
TEST(Isa, AllThatThisHostCan) {
  int64_t mask = 0, expected = 0;
  THINK_CALL(think_query, nullptr, THINK_QUERY_ISA_AVAILABLE, &mask);
  for (const int32_t isa : think::test::instruction_sets()) expected |= int64_t{1} << isa;
  EXPECT_EQ(expected, mask);
}

// Set by tests/cross, which knows what the emulated processor can do.
TEST(Isa, AsTheEmulatedProcessorCan) {
  const char *expected = std::getenv("THINK_TEST_EXPECT_ISA");
  if (!expected) GTEST_SKIP() << "THINK_TEST_EXPECT_ISA is not set: not under an emulator of tests/cross";
  EXPECT_STREQ(expected, available_isas().back().name);
}

TEST(Isa, EachCanBeForced) {
  for (const Isa &isa : available_isas()) EXPECT_EQ(isa.id, Plan(any_problem(), isa.name).isa()) << isa.name;
}

TEST(Isa, UnknownAndMissingOnesAreRefused) {
  int64_t mask = 0;
  THINK_CALL(think_query, nullptr, THINK_QUERY_ISA_AVAILABLE, &mask);
  const char *before = std::getenv("THINK_CPU_ISA");
  const std::string saved = before ? before : "";
  std::vector<std::string> names{"pentium", "AVX2", "avx2 "};
  if (!(mask >> THINK_ISA_AVX512BF16 & 1)) names.push_back("avx512bf16");
  if (!(mask >> THINK_ISA_NEON & 1)) names.push_back("neon");
  if (!(mask >> THINK_ISA_AVX2 & 1)) names.push_back("avx2");
  for (const std::string &name : names) {
    setenv("THINK_CPU_ISA", name.c_str(), 1);
    think_context *context = nullptr;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_UNSUPPORTED, think_context_create(nullptr, &context, &error)) << name;
    EXPECT_EQ(nullptr, context);
    EXPECT_NE(std::string::npos, std::string(error.message).find(name)) << error.message;
    think_context_destroy(context);
  }
  before ? setenv("THINK_CPU_ISA", saved.c_str(), 1) : unsetenv("THINK_CPU_ISA");
}

}  // namespace
}  // namespace flow
