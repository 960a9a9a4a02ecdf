// think inspect on a file of think_cache_save(): the library loads it, which checks all of it, and says what it takes in memory.
#pragma once

#include <span>
#include <string>

#include "command.h"
#include "sequence.h"

namespace think::cli {

// Throws Failure(kInput) where the library would not load the file.
void describe_sequence(const StoredSequence &sequence, std::span<const std::byte> file, const std::string &name, Report &report);

}  // namespace think::cli
