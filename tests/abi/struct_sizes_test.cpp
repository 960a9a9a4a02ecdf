// How structs of any age are read, with a struct that has grown: those of the library will one day. The only test here that sees what is behind the headers.
#include "libthink/core/structs.h"

#include <gtest/gtest.h>

#include <numeric>

#include "first_sizes.h"

namespace think_test {
namespace {

constexpr think::StructSizes kGrown = {16, 32, 8};  // it came with 16 bytes and has 32 now

struct Caller {
  alignas(8) unsigned char bytes[64] = {};
  explicit Caller(uint32_t size) {
    std::iota(bytes, bytes + sizeof bytes, static_cast<unsigned char>(1));
    std::memset(bytes + 4, 0, 4);  // flags
    if (size > kGrown.current) std::memset(bytes + kGrown.current, 0, sizeof bytes - kGrown.current);
    std::memcpy(bytes, &size, sizeof size);
  }
};

struct Reading {
  alignas(8) unsigned char bytes[40];
  think_error error = THINK_ERROR_INIT;
  think_status status;
  explicit Reading(const Caller &caller, uint32_t flags = 0) {
    std::memset(bytes, 0xEE, sizeof bytes);
    status = think::read_struct_bytes({&error, 1, "options"}, caller.bytes, bytes, kGrown, flags);
  }
};

TEST(StructSizes, AnOlderCallerHasFewerFields) {
  for (uint32_t size : {16u, 24u, 28u, 32u}) {
    const Caller caller(size);
    const Reading reading(caller);
    ASSERT_EQ(THINK_OK, reading.status) << size;
    uint32_t now;
    std::memcpy(&now, reading.bytes, sizeof now);
    EXPECT_EQ(kGrown.current, now);
    EXPECT_EQ(0, std::memcmp(reading.bytes + 4, caller.bytes + 4, size - 4));
    for (uint32_t at = size; at < kGrown.current; ++at) EXPECT_EQ(0, reading.bytes[at]) << "byte " << at << " of " << size;
    for (uint32_t at = kGrown.current; at < sizeof reading.bytes; ++at) EXPECT_EQ(0xEE, reading.bytes[at]) << "behind the struct";
  }
}

TEST(StructSizes, ShorterThanItEverWasIsRefused) {
  for (uint32_t size : {0u, 4u, 8u, 15u}) EXPECT_EQ(THINK_E_ARGUMENT, Reading(Caller(size)).status) << size;
  EXPECT_EQ(THINK_E_ARGUMENT, Reading(Caller(think::kLargestStruct + 1)).status);
}

TEST(StructSizes, ANewerCallerMayNotNeedWhatIsUnknown) {
  Caller caller(48);
  EXPECT_EQ(THINK_OK, Reading(caller).status);
  caller.bytes[47] = 1;
  EXPECT_EQ(THINK_E_UNSUPPORTED, Reading(caller).status);
  caller.bytes[47] = 0;
  caller.bytes[48] = 1;  // no longer the struct's
  EXPECT_EQ(THINK_OK, Reading(caller).status);
}

TEST(StructSizes, UnknownFlagsAreRefused) {
  Caller caller(32);
  caller.bytes[4] = 2;
  EXPECT_EQ(THINK_E_ARGUMENT, Reading(caller, 1).status);
  EXPECT_EQ(THINK_OK, Reading(caller, 3).status);
}

// An answer is written as far as the caller's struct goes.
TEST(StructSizes, AnOlderAnswerIsFilledAsFarAsItGoes) {
  struct Grown {
    uint32_t struct_size;
    int32_t values[7];
  };
  Grown answer{}, caller{};
  for (int i = 0; i < 7; ++i) answer.values[i] = i + 1;
  caller.struct_size = 16;
  think::write_output(&caller, answer);
  EXPECT_EQ(16u, caller.struct_size);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(i < 3 ? i + 1 : 0, caller.values[i]) << i;
}

TEST(StructSizes, TheLibraryKnowsTheFirstSizes) {
#define EXPECT_FIRST_SIZE(type, bytes) EXPECT_EQ(uint32_t{bytes}, think::kFirstSize<type>) << #type;
  THINK_FIRST_SIZES(EXPECT_FIRST_SIZE)
}

}  // namespace
}  // namespace think_test
