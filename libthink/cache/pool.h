// Pages of one kind and the bases that give them a meaning. A page number stands for one page in every layer, a slot for one basis (of each pruned side)
// in every layer: the layers of a cache always hold the same tokens. Both are counted, as forks share them.
#pragma once

#include "libthink/cache/memory.h"
#include "libthink/core/plan.h"

namespace think::cache {

// On a device all pools share one piece of memory that never moves. A page of a pool, all its layers one behind the other, lies at a multiple of its bytes: its
// number says where, whatever lies before it. Granules say which pool's pages touch what; they are shared at their borders by pages of one pool only.
struct Pool;
struct Arena {
  Pool *pools;  // that share it
  int32_t pool_count;
  char *memory;
  int64_t bytes, granule;
  Array<int8_t> owner;   // of a granule, as a place in pools
  Array<int32_t> users;  // pages that touch it; 0 = free
};

// Memory of one layer: formats, and with them bytes, may differ from layer to layer. A growth that failed half way leaves some layers with more room than
// others: `capacity` of the pool is what all of them have.
struct Slab {
  int64_t value_begin, page_bytes;  // of a page: values lie behind keys
  int64_t page_stride;              // from page to page
  char *pages;
  int32_t capacity;  // pages
  char *bases;
  int32_t slots;
  think_basis key_basis, value_basis;             // where the kind has them
  int64_t *key_head_offset, *value_head_offset;   // the same
  float *key_scale, *value_scale;                 // where rows are F8
};

struct Pool {
  Arena *arena;       // NULL: every layer has memory of its own, which grows and moves
  bool fixed;         // no arena either: places that are there from the start, in memory of somebody else
  bool from_the_end;  // its pages are looked for from there, so that those that stay and those that come and go do not mix
  int32_t search;     // no place before it can be had
  bool key_basis, value_basis, key_scale, value_scale;  // scales: in some layer
  bool predicts;                 // bases have weights
  int64_t page_bytes;            // of all layers
  int64_t slot_bytes;            // of one layer
  int32_t floor;                 // pages that are always kept
  int32_t capacity, used, hint;  // pages; none below the hint is free
  int32_t slot_capacity, slots_used;
  Array<int32_t> page_users, slot_users;  // in an arena page_users has all places, and -1 where there is no page
  Array<Slab> slabs;  // [layers]
};

// set(layer, slab) says how long its pages are.
template <class Set>
bool open_pool(Memory &memory, Pool &pool, int32_t layers, const Set &set) {
  if (!reserve(memory, pool.slabs, layers)) return false;
  for (int32_t layer = 0; layer < layers; ++layer) {
    pool.slabs.push({});
    set(layer, pool.slabs[layer]);
    pool.slabs[layer].page_stride = pool.slabs[layer].page_bytes;
    pool.page_bytes += pool.slabs[layer].page_bytes;
  }
  return true;
}
void close_pool(Memory &memory, Pool &pool);

// In an arena: places for pages. Fixed pools: places for pages of one layer, and for slots.
bool open_arena(Memory &memory, Arena &arena, char *at, int64_t bytes);  // its pools are set
bool enter_arena(Memory &memory, Pool &pool, Arena &arena, bool from_the_end);
bool place_pages(Memory &memory, Pool &pool, char *at, int32_t pages);
bool place_slots(Memory &memory, const Shape &shape, Pool &pool, char *at, int32_t slots);

// Room for so many more. False: no memory; the pool may have grown, nothing else has happened.
bool reserve_pages(Memory &memory, Pool &pool, int64_t more);
bool reserve_slots(Memory &memory, const Shape &shape, Pool &pool, int64_t more);

// Where room has been reserved.
int32_t take_page(Pool &pool);
int32_t take_slot(Pool &pool);
// In an arena the place of a page that nobody uses any more is anybody's at once.
void drop_page(Pool &pool, int32_t page);
void drop_slot(Pool &pool, int32_t slot);
void give_back_reserved(Pool &pool);  // pages of an arena that were not taken
void copy_page(const Pool &pool, int32_t from, int32_t to);  // in all layers

// Is so much free that memory should go back? Then used pages move to the front, moved(from, to) tells of each, and shrink() gives back what it can.
bool sparse(const Pool &pool);
template <class Moved>
void gather(Pool &pool, const Moved &moved) {
  int32_t to = 0;
  for (int32_t from = pool.capacity - 1; from >= pool.used; --from) {
    if (pool.page_users[from] == 0) continue;
    while (pool.page_users[to] != 0) ++to;
    copy_page(pool, from, to);
    pool.page_users[to] = pool.page_users[from];
    pool.page_users[from] = 0;
    moved(from, to);
  }
  pool.hint = pool.used;
}
void shrink(Memory &memory, Pool &pool);

int64_t spare_bytes(const Pool &pool);

}  // namespace think::cache
