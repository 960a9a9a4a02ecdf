#include "libthink/cache/pool.h"

#include "libthink/core/layout.h"

namespace think::cache {
namespace {

constexpr int32_t kSlack = 8;  // pages, or a quarter of them, that may be free before memory goes back

void copy_array(const void *from, void *to, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

// The arrays of a basis lie one behind the other, all slots of each: with another number of slots each has another place.
void copy_slots(const Shape &shape, int32_t side, bool predicts, const think_basis &from, const think_basis &to, int32_t slots) {
  const BasisLayout layout = basis_layout(shape, side, predicts);
  copy_array(from.weight, to.weight, layout.weight * slots);
  copy_array(from.weight_offset, to.weight_offset, layout.weight_offset * slots);
  copy_array(from.index, to.index, layout.index * slots);
  copy_array(from.offset, to.offset, layout.offset * slots);
  copy_array(from.kept, to.kept, layout.kept * slots);
}

// Head offsets come behind them, as they need 8 bytes only and a basis is a multiple of 64, then scales.
void bind(const Shape &shape, const Pool &pool, char *memory, int32_t slots, Slab &slab) {
  char *at = memory;
  const auto side = [&](bool has, int32_t which, think_basis &basis) {
    if (!has) return;
    bind_basis(shape, which, slots, at, basis, pool.predicts);
    at += basis_bytes(shape, which, pool.predicts) * slots;
  };
  side(pool.key_basis, THINK_KEYS, slab.key_basis);
  side(pool.value_basis, THINK_VALUES, slab.value_basis);
  const auto of_heads = [&]<class T>(bool has, T *&array) {
    if (!has) return;
    array = reinterpret_cast<T *>(at);
    at += int64_t{slots} * shape.kv_heads * static_cast<int64_t>(sizeof(T));
  };
  of_heads(pool.key_basis, slab.key_head_offset);
  of_heads(pool.value_basis, slab.value_head_offset);
  of_heads(pool.key_scale, slab.key_scale);
  of_heads(pool.value_scale, slab.value_scale);
  slab.bases = memory;
  slab.slots = slots;
}

bool resize_pages(Memory &memory, Slab &slab, int32_t capacity, int32_t copied) {
  char *pages = static_cast<char *>(take(memory, capacity * slab.page_bytes));
  if (!pages) return false;
  if (copied > 0) copy_array(slab.pages, pages, copied * slab.page_bytes);
  give(memory, slab.pages, slab.capacity * slab.page_bytes);
  slab.pages = pages;
  slab.capacity = capacity;
  return true;
}

bool resize_slots(Memory &memory, const Shape &shape, const Pool &pool, Slab &slab, int32_t slots, int32_t copied) {
  char *bases = static_cast<char *>(take(memory, slots * pool.slot_bytes));
  if (!bases) return false;
  const Slab before = slab;
  bind(shape, pool, bases, slots, slab);
  if (copied > 0) {
    const auto of_heads = [&]<class T>(bool has, const T *from, T *to) {
      if (has) copy_array(from, to, int64_t{copied} * shape.kv_heads * static_cast<int64_t>(sizeof(T)));
    };
    if (pool.key_basis) copy_slots(shape, THINK_KEYS, pool.predicts, before.key_basis, slab.key_basis, copied);
    if (pool.value_basis) copy_slots(shape, THINK_VALUES, pool.predicts, before.value_basis, slab.value_basis, copied);
    of_heads(pool.key_basis, before.key_head_offset, slab.key_head_offset);
    of_heads(pool.value_basis, before.value_head_offset, slab.value_head_offset);
    of_heads(pool.key_scale, before.key_scale, slab.key_scale);
    of_heads(pool.value_scale, before.value_scale, slab.value_scale);
  }
  give(memory, before.bases, before.slots * pool.slot_bytes);
  return true;
}

bool extend_counts(Memory &memory, Array<int32_t> &users, int32_t size) {
  if (!reserve(memory, users, size)) return false;
  while (users.size < size) users.push(0);
  return true;
}

// Would all layers grow within the limit? One after the other, as each has its old block until it has moved. A growth that stopped half way would hold memory
// that what fits could not have any more.
struct Block {
  int32_t count;
  int64_t bytes;  // of one
};

template <class BlockOf>
bool within_limit(const Memory &memory, const Pool &pool, int32_t count, const BlockOf &block_of) {
  int64_t bytes = memory.bytes;
  for (int32_t layer = 0; memory.limit && layer < pool.slabs.size; ++layer) {
    const Block block = block_of(pool.slabs[layer]);
    if (block.count >= count) continue;
    if (count * block.bytes > memory.limit - bytes) return false;
    bytes += (count - block.count) * block.bytes;
  }
  return true;
}

bool grow_pages(Memory &memory, Pool &pool, int32_t capacity) {
  if (!within_limit(memory, pool, capacity, [](const Slab &slab) { return Block{slab.capacity, slab.page_bytes}; })) return false;
  if (!extend_counts(memory, pool.page_users, capacity)) return false;
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    Slab &slab = pool.slabs[layer];
    if (slab.capacity < capacity && !resize_pages(memory, slab, capacity, pool.capacity)) return false;
  }
  pool.capacity = capacity;
  return true;
}

bool grow_slots(Memory &memory, const Shape &shape, Pool &pool, int32_t slots) {
  if (!within_limit(memory, pool, slots, [&](const Slab &slab) { return Block{slab.slots, pool.slot_bytes}; })) return false;
  if (!extend_counts(memory, pool.slot_users, slots)) return false;
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    Slab &slab = pool.slabs[layer];
    if (slab.slots < slots && !resize_slots(memory, shape, pool, slab, slots, pool.slot_capacity)) return false;
  }
  pool.slot_capacity = slots;
  return true;
}

// ---- arena

// Pages are numbered by place, and looked for in this order.
int32_t place_of(const Pool &pool, int32_t order) { return pool.from_the_end ? pool.page_users.size - 1 - order : order; }

struct Granules {
  int64_t first, end;
};

Granules granules_of(const Pool &pool, int32_t page) {
  const int64_t begin = page * pool.page_bytes;
  return {begin / pool.arena->granule, (begin + pool.page_bytes - 1) / pool.arena->granule + 1};
}

bool claim(Pool &pool, int32_t page) {
  Arena &arena = *pool.arena;
  const Granules granules = granules_of(pool, page);
  const int8_t number = static_cast<int8_t>(&pool - arena.pools);
  for (int64_t at = granules.first; at < granules.end; ++at) {
    if (arena.users[at] > 0 && arena.owner[at] != number) return false;
  }
  for (int64_t at = granules.first; at < granules.end; ++at) {
    arena.owner[at] = number;
    ++arena.users[at];
  }
  pool.page_users[page] = 0;
  ++pool.capacity;
  return true;
}

void unclaim(Pool &pool, int32_t page) {
  const Arena &arena = *pool.arena;
  const Granules granules = granules_of(pool, page);
  for (int64_t at = granules.first; at < granules.end; ++at) --pool.arena->users[at];
  pool.page_users[page] = -1;
  --pool.capacity;
  const int64_t begin = granules.first * arena.granule, last = granules.end * arena.granule - 1;
  for (int32_t number = 0; number < arena.pool_count; ++number) {
    Pool &other = arena.pools[number];
    if (other.page_users.size == 0) continue;
    const int64_t order = other.from_the_end ? other.page_users.size - 1 - last / other.page_bytes : begin / other.page_bytes;
    other.search = static_cast<int32_t>(std::clamp<int64_t>(order, 0, other.search));
  }
}

bool claim_pages(Pool &pool, int64_t more) {
  int64_t missing = more - (pool.capacity - pool.used);
  for (; missing > 0 && pool.search < pool.page_users.size; ++pool.search) {
    const int32_t page = place_of(pool, pool.search);
    if (pool.page_users[page] >= 0 || !claim(pool, page)) continue;
    pool.hint = std::min(pool.hint, pool.search);
    --missing;
  }
  return missing <= 0;
}

}  // namespace

bool open_arena(Memory &memory, Arena &arena, char *at, int64_t bytes) {
  constexpr int64_t kMostGranules = 1 << 18;
  arena.memory = at;
  arena.bytes = bytes;
  arena.granule = kWorkspaceAlignment;
  while (bytes / arena.granule >= kMostGranules) arena.granule *= 2;
  const int64_t granules = bytes / arena.granule + 1;
  if (!reserve(memory, arena.owner, granules) || !reserve(memory, arena.users, granules)) return false;
  for (int64_t granule = 0; granule < granules; ++granule) {
    arena.owner.push(0);
    arena.users.push(0);
  }
  return true;
}

bool enter_arena(Memory &memory, Pool &pool, Arena &arena, bool from_the_end) {
  pool.arena = &arena;
  pool.from_the_end = from_the_end;
  const int64_t places = pool.page_bytes > 0 ? std::min<int64_t>(INT32_MAX / 2, arena.bytes / pool.page_bytes) : 0;
  if (!reserve(memory, pool.page_users, places)) return false;
  while (pool.page_users.size < places) pool.page_users.push(-1);
  int64_t offset = 0;
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    Slab &slab = pool.slabs[layer];
    slab.pages = arena.memory + offset;
    slab.page_stride = pool.page_bytes;
    offset += slab.page_bytes;
  }
  return true;
}

bool place_pages(Memory &memory, Pool &pool, char *at, int32_t pages) {
  pool.fixed = true;
  if (!extend_counts(memory, pool.page_users, pages)) return false;
  pool.slabs[0].pages = at;
  pool.capacity = pages;
  return true;
}

bool place_slots(Memory &memory, const Shape &shape, Pool &pool, char *at, int32_t slots) {
  pool.fixed = true;
  if (!extend_counts(memory, pool.slot_users, slots)) return false;
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) bind(shape, pool, at + layer * slots * pool.slot_bytes, slots, pool.slabs[layer]);
  pool.slot_capacity = slots;
  return true;
}

void close_pool(Memory &memory, Pool &pool) {
  for (int32_t layer = 0; !pool.arena && !pool.fixed && layer < pool.slabs.size; ++layer) {
    const Slab &slab = pool.slabs[layer];
    give(memory, slab.pages, slab.capacity * slab.page_bytes);
    give(memory, slab.bases, slab.slots * pool.slot_bytes);
  }
  release(memory, pool.slabs);
  release(memory, pool.page_users);
  release(memory, pool.slot_users);
}

bool reserve_pages(Memory &memory, Pool &pool, int64_t more) {
  if (pool.arena) return claim_pages(pool, more);
  const int64_t needed = pool.used + more;
  if (needed <= pool.capacity) return true;
  if (pool.fixed || needed > INT32_MAX) return false;
  // An eighth more than there is, so that growing costs each page a few copies only; where that is too much, what is needed.
  const int64_t ample = std::min<int64_t>(INT32_MAX, pool.capacity + pool.capacity / 8);
  if (ample > needed && grow_pages(memory, pool, static_cast<int32_t>(ample))) return true;
  return grow_pages(memory, pool, static_cast<int32_t>(needed));
}

bool reserve_slots(Memory &memory, const Shape &shape, Pool &pool, int64_t more) {
  const int64_t needed = pool.slots_used + more;
  if (pool.slot_bytes == 0 || needed <= pool.slot_capacity) return true;
  if (pool.fixed || needed > INT32_MAX) return false;
  const int64_t ample = pool.slot_capacity + pool.slot_capacity / 4;
  if (ample > needed && grow_slots(memory, shape, pool, static_cast<int32_t>(ample))) return true;
  return grow_slots(memory, shape, pool, static_cast<int32_t>(needed));
}

int32_t take_page(Pool &pool) {
  int32_t order = pool.hint;
  while (pool.page_users[place_of(pool, order)] != 0) ++order;
  const int32_t page = place_of(pool, order);
  pool.page_users[page] = 1;
  pool.hint = order + 1;
  ++pool.used;
  return page;
}

int32_t take_slot(Pool &pool) {
  if (pool.slot_bytes == 0) return 0;
  int32_t slot = 0;
  while (pool.slot_users[slot] != 0) ++slot;
  pool.slot_users[slot] = 1;
  ++pool.slots_used;
  return slot;
}

void drop_page(Pool &pool, int32_t page) {
  if (--pool.page_users[page] > 0) return;
  --pool.used;
  if (pool.arena) return unclaim(pool, page);
  pool.hint = std::min(pool.hint, page);
}

void give_back_reserved(Pool &pool) {
  for (int32_t order = 0; pool.arena && pool.capacity > pool.used; ++order) {
    const int32_t page = place_of(pool, order);
    if (pool.page_users[page] == 0) unclaim(pool, page);
  }
}

void drop_slot(Pool &pool, int32_t slot) {
  if (pool.slot_bytes > 0 && --pool.slot_users[slot] == 0) --pool.slots_used;
}

void copy_page(const Pool &pool, int32_t from, int32_t to) {
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    const Slab &slab = pool.slabs[layer];
    copy_array(slab.pages + from * slab.page_bytes, slab.pages + to * slab.page_bytes, slab.page_bytes);
  }
}

bool sparse(const Pool &pool) {
  if (pool.arena || pool.fixed) return false;
  const int64_t wanted = std::max(pool.used, pool.floor);
  return pool.capacity > wanted + std::max<int64_t>(kSlack, wanted / 4) || (pool.used == 0 && pool.capacity > pool.floor);
}

void shrink(Memory &memory, Pool &pool) {
  // An eighth stays free, as when a pool grows: the next pages that are needed must not move all of it again.
  const int32_t capacity = std::max(pool.used + pool.used / 8, pool.floor);
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    Slab &slab = pool.slabs[layer];
    if (capacity == 0) {
      give(memory, slab.pages, slab.capacity * slab.page_bytes);
      slab.pages = nullptr;
      slab.capacity = 0;
    } else if (slab.capacity > capacity) {
      resize_pages(memory, slab, capacity, pool.used);  // no memory for a smaller block: the larger one stays
    }
    if (pool.slots_used == 0) {
      give(memory, slab.bases, slab.slots * pool.slot_bytes);
      slab.bases = nullptr;
      slab.slots = 0;
    }
  }
  pool.capacity = capacity;
  pool.page_users.size = capacity;
  if (pool.slots_used == 0) pool.slot_capacity = pool.slot_users.size = 0;
}

int64_t spare_bytes(const Pool &pool) {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < pool.slabs.size; ++layer) {
    const Slab &slab = pool.slabs[layer];
    bytes += (slab.capacity - pool.used) * slab.page_bytes + (slab.slots - pool.slots_used) * pool.slot_bytes;
  }
  return bytes;
}

}  // namespace think::cache
