-- commit.lua: merges summaries of readings into the stored states of their streams, and deletes streams. Every write of
-- the service is one run of this script. commit_script.py puts the other scripts in front of it, in functions; Lua
-- creates functions again in every run, so their inner functions are only created if needed. The fields of a state and
-- the reject reasons appear here by name; commit_script.py replaces the names with the numbers that Python uses, and
-- the names of constants with their values.
--
-- KEYS[i]   The key of a stream. All keys are different.
-- ARGV[1]   MessagePack: an array of groups. A group is
--             {entries}
--             {entries, producer, sequence, first}: with an idempotency key; first only if the key is a range
--             {entries, timestamps, digest, completes}: with timestamps (see remembered_timestamps.lua); completes says
--               that they are the last timestamps of the batch with this digest
--           An entry is
--             {i, delta}: a summary for the stream at KEYS[i]
--             {i, delta, first}: the range starts at first for this stream, unless first is false
--             {i, delta, first, swap}: the sums were merged by the worker, see swap.lua
--             {i, false, {shape, components}}: delete the stream if it has this shape
--           The entries of a group succeed or fail together. A stream occurs in a group at most once.
-- ARGV[2]   The maximum number of keys in the database; beyond it, new streams are refused. 0 means no limit.
-- ARGV[3]   '1' to store a state again even if all its readings were duplicates. Then the replicas that WAIT counts
--           have the readings that were sent again.
-- ARGV[4]   The number of new streams for which earlier groups of the request have reserved room, to check only; empty
--           or nil to record. A check writes nothing and replies with the rejections. In a check, a delta has the
--           fields FORMAT to LAST, and the number of components in place of LATEST.
-- ARGV[5]   '1' to merge a state however wide it is
-- Reply     {replies, state_1, ..., state_n}
--           replies: MessagePack, one reply per group: {rejections, duplicates, number of new streams}. If there are
--           rejections, nothing of the group is recorded. A rejection is
--             {i, shape}: the stream has this shape, which is different
--             {i, reason}: a RejectReason (commit_reply.py)
--             {i, PARTLY_COUNTED, highest}: the stream has counted the range up to this sequence
--             {i, MIXED_TIMESTAMPS, number unknown, number ahead, positions...}: the positions of the unknown
--               timestamps, then of those ahead, then of the new ones
--             {0, DEFERRED} or {i, DEFERRED}: the groups before it were enough work for one run
--             {i, TOO_WIDE}: the state takes too long to merge
--             {i, STATE_CHANGED}: the state does not have the digest of the swap
--           duplicates: the i of the streams that had counted the key or the timestamps before
--           state_i: the stored state of KEYS[i] after this commit, or its last state if it was deleted; nil if every
--           group was refused or the stream to delete does not exist
--
-- A delta has the fields of a state (core/state.py), but no checksum, and no minimums and maximums if it is one
-- reading. Sums are rows of limbs (core/exact_sums.py): limb i of a component weighs 2^(32 * (low + i - 1)) and is from
-- 0 to 2^32 - 1, except that the highest one is signed. The law is that of Summary.merge, and the results have the same
-- bits. The numbers of Lua are IEEE doubles, so they hold a limb, its carry, and 20 bits more, and cmsgpack preserves
-- every one of them. No number may pass through tostring, which keeps only 14 digits.
--
-- The times of readings only affect the first and last time and the latest reading of the stream. A time more than ten
-- minutes ahead of the Redis clock is replaced by now, so that one wrong clock cannot fix the last time of a stream in
-- the future.
--
-- The script reads, checks and encodes everything before its first write, so an error before that leaves nothing half
-- written. If the server refuses the first write, the reply is the error UNWRITTEN: nothing was recorded.

local clock = redis.pcall('TIME')
if clock.err then return redis.error_reply('UNWRITTEN ' .. clock.err) end
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- Milliseconds since 1970.

local MAX_COUNT = 2 ^ 53 - 1
local MAX_WORK = 100000  -- Bytes of states that one run reads; the remaining groups are deferred.
local MAX_STATE = 100000  -- Bytes of a state that this script merges.
local STREAM_WORK, ABSENT_WORK = 250, 50  -- Base cost of reading a stream, or of finding none, in bytes.
local MAX_AHEAD = 10 * 60 * 1000  -- Milliseconds that the time of a reading may be ahead of the Redis clock.
local BASE, HALF = 2 ^ 32, 2 ^ 31  -- A limb is below BASE, and the highest one is below HALF.
local CHECKSUM_LENGTH = 8  -- Characters.
local ARRAY_16 = 0xDC  -- The first byte of a MessagePack array of 16 or more members.

local limit, always_store, reserved = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local room = limit > 0 and limit - redis.call('DBSIZE') - (reserved or 0) or math.huge
local work, earlier_work = 0, 0  -- In bytes, of this run, and of the groups before the current one.
local states = {}  -- By i: the state so far, false if the stream does not exist, or the reason why it cannot be merged.
local shapes = {}  -- By i: the shape of a state that was not read because it is too wide.
local changed, answered = {}, {}  -- By i: whether to write the state, and whether to reply with it.
local lazy = {}  -- The other scripts, once they are needed.

-- Adds the row of sums of a delta to that of a state; at is the member that has the lowest limb.
local function add(state, delta, at, components)
  local low, limbs, more_low, more = state[at], state[at + 1], delta[at], delta[at + 1]
  local size, more_size = #limbs / components, #more / components
  if more_size == 0 then return end
  if size == 0 then
    state[at], state[at + 1] = more_low, more
    return
  end
  if more_low < low or more_low + more_size > low + size then
    lazy.rows = lazy.rows or rows()
    low, limbs, size = lazy.rows.widen(low, limbs, size, components, more_low, more_size)
    state[at], state[at + 1] = low, limbs
  end
  local is_low_used, is_high_used, is_too_small = false, false, false
  for component = 0, components - 1 do
    local lowest, highest, last = component * size + 1, component * size + size, component * more_size + more_size
    local i, carry = lowest + more_low - low, 0
    for j = last - more_size + 1, last - 1 do
      local limb = limbs[i] + more[j] + carry
      if limb >= BASE then
        limbs[i], carry = limb - BASE, 1
      else
        limbs[i], carry = limb, 0
      end
      i = i + 1
    end
    carry = carry + more[last]
    while carry ~= 0 and i < highest do
      local limb = limbs[i] + carry
      carry = limb >= BASE and 1 or limb < 0 and -1 or 0
      limbs[i] = limb - carry * BASE
      i = i + 1
    end
    local top = limbs[highest]
    if carry ~= 0 then
      top = top + carry
      limbs[highest] = top
    end
    if top >= HALF or top < -HALF then
      is_too_small = true
    elseif (top ~= 0 and top ~= -1) or size == 1 or (limbs[highest - 1] >= HALF) ~= (top < 0) then
      is_high_used = true
    end
    if limbs[lowest] ~= 0 then is_low_used = true end
  end
  if is_too_small or not (is_low_used and is_high_used) then
    lazy.rows = lazy.rows or rows()
    state[at], state[at + 1] = lazy.rows.trim(low, limbs, size, components, is_too_small)
  end
end

-- Merges the count, the times and the latest reading of a delta.
local function merge_head(state, delta)
  state[COUNT] = state[COUNT] + delta[COUNT]
  if delta[FIRST] < state[FIRST] then state[FIRST] = delta[FIRST] end
  if state[LAST] > now + MAX_AHEAD then state[LAST] = now end
  if delta[LAST] >= state[LAST] then
    state[LAST], state[LATEST] = delta[LAST], delta[LATEST]
  end
end

-- Reads the state of a stream for the first time in this run.
local function load(i, delta, swapped)
  work = work + ABSENT_WORK
  if swapped then
    lazy.swap = lazy.swap or swap(merge_head)
    states[i], work = lazy.swap.read(KEYS[i], delta, swapped, work)
    return
  end
  local stored = redis.pcall('GET', KEYS[i])
  if not stored then
    states[i] = false
    return
  end
  work = work + STREAM_WORK
  if type(stored) ~= 'string' then
    states[i] = UNREADABLE
    return
  end
  if earlier_work > 0 and work + #stored > MAX_WORK then
    states[i], work = DEFERRED, MAX_WORK + 1
    return
  end
  if #stored > MAX_STATE and delta and ARGV[5] ~= '1' then
    local header = string.byte(stored) == ARRAY_16 and 3 or 1  -- Bytes.
    shapes[i], states[i] = select(SHAPE + 2, pcall(cmsgpack.unpack_limit, stored, SHAPE, header)), TOO_WIDE
    return
  end
  work = work + #stored
  local packed = string.sub(stored, 1, -CHECKSUM_LENGTH - 1)
  if packed ~= '' and string.sub(redis.sha1hex(packed), 1, CHECKSUM_LENGTH) == string.sub(stored, -CHECKSUM_LENGTH) then
    local state = cmsgpack.unpack(packed)
    states[i] = state[FORMAT] == VERSION and state or UNREADABLE
  else
    lazy.rows = lazy.rows or rows()
    lazy.version_1 = lazy.version_1 or version_1(lazy.rows.trim)
    states[i] = lazy.version_1(stored) or UNREADABLE
  end
end

-- Returns the functions for what a stream remembers of timestamps, or of the keys of a producer.
local function memory_of(producer)
  if type(producer) == 'table' then
    lazy.timestamps = lazy.timestamps or remembered_timestamps(now)
    return lazy.timestamps
  end
  lazy.keys = lazy.keys or idempotency(now)
  return lazy.keys
end

-- Examines an entry. Returns a rejection, or nil and whether the stream has counted the key before.
local function examine(i, delta, producer, sequence, first)
  local state = states[i]
  if type(state) == 'number' then
    local shape = shapes[i]
    return {i, type(shape) == 'string' and shape ~= delta[SHAPE] and shape or state}
  end
  if not delta then
    local shape, components = unpack(first)
    if state and state[SHAPE] ~= shape then return {i, state[SHAPE]} end
    return state and #state[MINIMUMS] ~= components and {i, UNREADABLE} or nil
  end
  if state then
    if state[SHAPE] ~= delta[SHAPE] then return {i, state[SHAPE]} end
    local components = type(delta[LATEST]) == 'table' and #delta[LATEST] or delta[LATEST]
    if (state.components or #state[MINIMUMS]) ~= components then return {i, UNREADABLE} end
  end
  if producer then
    local rejection, is_duplicate = memory_of(producer).examine(i, state, producer, sequence, first)
    if rejection or is_duplicate then return rejection, is_duplicate end
  end
  if state and state[COUNT] + delta[COUNT] > MAX_COUNT then return {i, STREAM_FULL} end
end

local NONE = {}

local function with(list, item)
  if list == NONE then return {item} end
  list[#list + 1] = item
  return list
end

local STREAM, DELTA, OWN_FIRST, SWAPPED = 1, 2, 3, 4  -- The members of an entry.
local ENTRIES, PRODUCER, SEQUENCE, RANGE_FIRST = 1, 2, 3, 4  -- The members of a group.

-- The groups. This is one loop without functions, because Lua would create these in every run, however short: that took
-- a tenth of the time of a run for one stream.
local replies = {}
for g, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  local entries, producer, sequence, range_first = group[ENTRIES], group[PRODUCER], group[SEQUENCE], group[RANGE_FIRST]
  local rejections, duplicates, new = NONE, NONE, NONE
  if work > MAX_WORK then
    rejections = {{0, DEFERRED}}
    entries = NONE
  end
  earlier_work = work

  -- 1. Examine all streams.
  for _, entry in ipairs(entries) do
    local i, delta = entry[STREAM], entry[DELTA]
    if states[i] == nil then load(i, delta, entry[SWAPPED]) end
    local rejection = examine(i, delta, producer, sequence, entry[OWN_FIRST] or range_first)
    if rejection then rejections = with(rejections, rejection) end
    if delta and not states[i] then new = with(new, {i, TOO_MANY_STREAMS}) end
  end
  if #new > room then
    for _, rejection in ipairs(new) do rejections = with(rejections, rejection) end
  end
  if rejections == NONE then room = room - #new end

  -- 2. If none refuses, merge or delete them.
  for _, entry in ipairs((reserved or rejections ~= NONE) and NONE or entries) do
    local i, delta, first = entry[STREAM], entry[DELTA], entry[OWN_FIRST] or range_first
    local state = states[i]
    answered[i] = true
    if not delta then
      changed[i] = state and 'DEL'
    elseif producer and select(2, examine(i, delta, producer, sequence, first)) then
      duplicates = with(duplicates, i)
      changed[i] = changed[i] or always_store and 'SET'
    else
      if delta[FIRST] > now + MAX_AHEAD then delta[FIRST] = now end
      if delta[LAST] > now + MAX_AHEAD then delta[LAST] = math.max(delta[FIRST], now) end
      if entry[SWAPPED] then
        state = lazy.swap.merge(state, delta, entry[SWAPPED])
      elseif state then
        merge_head(state, delta)
        local minimums, maximums = state[MINIMUMS], state[MAXIMUMS]
        local lows, highs, components = delta[MINIMUMS] or delta[LATEST], delta[MAXIMUMS] or delta[LATEST], #minimums
        for c = 1, components do
          if lows[c] < minimums[c] then minimums[c] = lows[c] end
          if highs[c] > maximums[c] then maximums[c] = highs[c] end
        end
        add(state, delta, SUM_LOW, components)
        add(state, delta, SQUARE_LOW, components)
      else
        state = delta
        if not state[MINIMUMS] then  -- Copies, because they will change.
          state[MINIMUMS], state[MAXIMUMS] = {}, {}
          for c, number in ipairs(delta[LATEST]) do state[MINIMUMS][c], state[MAXIMUMS][c] = number, number end
        end
      end
      if producer then memory_of(producer).mark(state, producer, sequence, first) end
      states[i], changed[i] = state, 'SET'
    end
  end
  replies[g] = {rejections, duplicates, #new}
end

local reply = {cmsgpack.pack(replies)}
for i = 1, #KEYS do
  local state = answered[i] and states[i]
  if not state then
    reply[i + 1] = false
  elseif state.stored then  -- Unchanged.
    reply[i + 1] = state.stored
  else
    local packed = state.sums and lazy.swap.pack(state) or cmsgpack.pack(state)
    reply[i + 1] = packed .. string.sub(redis.sha1hex(packed), 1, CHECKSUM_LENGTH)
  end
end
local write = redis.pcall  -- Only an error of the first write proves that nothing was written.
for i, key in ipairs(KEYS) do
  if changed[i] then
    local done
    if changed[i] == 'DEL' then done = write('DEL', key) else done = write('SET', key, reply[i + 1]) end
    if type(done) == 'table' and done.err then return redis.error_reply('UNWRITTEN ' .. done.err) end
    write = redis.call
  end
end
return reply
