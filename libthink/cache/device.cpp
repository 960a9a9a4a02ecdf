#include "libthink/cache/device.h"

#include "libthink/cache/cache.h"

namespace think::cache {

namespace {

constexpr int32_t kNoHostMemory = 2;  // cudaErrorMemoryAllocation

// Whatever else has failed: what is copied must not be written over.
void wait_for(Device &device, Staging &staging) {
  if (!staging.sent) return;
  const int32_t error = device.backend->wait(staging.event);
  if (!device.error) device.error = error;
  staging.sent = false;
}

}  // namespace

bool reserve_staging(Memory &memory, Device &device, int64_t bytes) {
  for (Staging &staging : device.staging) {
    if (!staging.event) run(device, [&](const cuda::Backend &backend) { return backend.make_event(&staging.event); });
    if (device.error) return true;  // no matter of memory
    if (staging.bytes >= bytes) continue;
    const int64_t larger = std::max(bytes, staging.bytes + staging.bytes / 2);
    void *block = nullptr;
    const int32_t error = device.backend->host_memory(larger, &block);
    if (error == kNoHostMemory) return false;
    if (error) {
      device.error = error;
      return true;
    }
    wait_for(device, staging);
    if (staging.memory) device.backend->free_host_memory(staging.memory);
    memory.bytes += larger - staging.bytes;
    staging.memory = static_cast<char *>(block);
    staging.bytes = larger;
  }
  return true;
}

char *next_staging(Device &device) {
  device.turn ^= 1;
  wait_for(device, device.staging[device.turn]);
  return device.staging[device.turn].memory;
}

void sent_staging(Device &device) {
  Staging &staging = device.staging[device.turn];
  run(device, [&](const cuda::Backend &backend) {
    const int32_t error = backend.record(staging.event, device.stream);
    staging.sent = !error;
    return error;
  });
}

void close_staging(Memory &memory, Device &device) {
  for (Staging &staging : device.staging) {
    wait_for(device, staging);
    if (staging.memory) device.backend->free_host_memory(staging.memory);
    if (staging.event) device.backend->free_event(staging.event);
    memory.bytes -= staging.bytes;
    staging = {};
  }
}

void copy_rows(Device &device, const cuda::Copy &rows) {
  run(device, [&](const cuda::Backend &backend) { return backend.copy(rows, device.stream); });
}

void copy(Device &device, void *to, const void *from, int64_t bytes) { copy_rows(device, {to, bytes, from, bytes, bytes, 1}); }

Lists::Lists(const think_cache &cache) : device_(cache.device) {
  if (device_) staging_ = reinterpret_cast<int32_t *>(next_staging(*device_));
}

const int32_t *Lists::add(const int32_t *numbers, int64_t count) {
  if (!device_) return numbers;
  if (count > 0) std::memcpy(staging_ + count_, numbers, static_cast<size_t>(count) * sizeof(int32_t));
  const int32_t *place = device_->call_tables + count_;
  count_ += count;
  return place;
}

void Lists::send() {
  if (!device_) return;
  copy(*device_, device_->call_tables, staging_, count_ * static_cast<int64_t>(sizeof(int32_t)));
  sent_staging(*device_);
}

}  // namespace think::cache
