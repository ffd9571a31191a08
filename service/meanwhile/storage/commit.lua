-- commit.lua: merges summaries of readings into the stored states of their streams, and deletes streams. Every write of
-- the service is one run of this script. commit_script.py puts idempotency.lua, remembered_timestamps.lua and swap.lua
-- in front of it, in functions; Lua creates functions again in every run, so their inner functions are only created if
-- needed. The members of a state and the reject reasons appear here by name; commit_script.py replaces the names with
-- the numbers that Python uses.
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
--           members FORMAT to LAST, and the number of components in place of MINIMUMS.
-- ARGV[5]   '1' to merge a state however wide it is
-- Reply     {replies, state_1, ..., state_n}
--           replies: MessagePack, one reply per group: {rejections, duplicates, number of new streams}. If there are
--           rejections, nothing of the group is recorded. A rejection is
--             {i, shape}: the stream has this shape, which is different
--             {i, reason}: a RejectReason (commit_reply.py)
--             {i, PARTLY_COUNTED, highest}: the stream has counted the range up to this sequence
--             {i, MIXED_TIMESTAMPS, number unknown, number ahead, positions...}: the positions of the unknown
--               timestamps, then of those ahead, then of the new ones
--             {0, DEFERRED}: the groups before it were enough work for one run
--             {i, TOO_WIDE}: the state takes too long to merge
--             {i, STATE_CHANGED}: the state does not have the digest of the swap
--           duplicates: the i of the streams that had counted the key or the timestamps before
--           state_i: MessagePack, the state of KEYS[i] after this commit, or its last state if it was deleted; nil if
--           every group was refused or the stream to delete does not exist
--
-- A delta has the form of a state (core/state.py); the names of the members are the same. Sums are canonical
-- expansions, smallest part first (core/exact_sums.py). The law is that of Summary.merge, and the results have the same
-- bits. The numbers of Lua are IEEE doubles, and cmsgpack preserves every one of them. No number may pass through
-- tostring, which keeps only 14 digits.
--
-- The times of readings only affect the first and last time of the stream. A time more than ten minutes ahead of the
-- Redis clock is replaced by now, so that one wrong clock cannot fix the last time of a stream in the future.
--
-- The script reads, checks and encodes everything before its first write, so an error before that leaves nothing half
-- written. If the server refuses the first write, the reply is the error UNWRITTEN: nothing was recorded.

local clock = redis.pcall('TIME')
if clock.err then return redis.error_reply('UNWRITTEN ' .. clock.err) end
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- Milliseconds since 1970.

local VERSION = 1  -- Format version.
local UNREADABLE_STATE, WIDE_STATE, CHANGED_STATE = {}, {}, {}  -- Markers in place of a state.

local NEW, DUPLICATE = 'new', 'duplicate'  -- The same strings as in idempotency.lua.
local MAX_COUNT = 2 ^ 53 - 1
local MAX_WORK = 60000  -- Bytes of states that one run reads before it defers the remaining groups.
local MAX_STATE = 100000  -- Bytes of a state that this script merges.
local STREAM_WORK, ABSENT_WORK = 250, 50  -- Base cost of reading a stream, or of finding none, in bytes.
local MAX_AHEAD = 10 * 60 * 1000  -- Milliseconds that the time of a reading may be ahead of the Redis clock.
local EARLIEST, LATEST = -62135596800000, 253402300799999  -- The years 1 to 9999.
local LARGEST = 1e140  -- The largest magnitude of a number in a reading.
local HALF_ULP = 2 ^ -53  -- At most half a unit in the last place of a double, relative to the double.
local SLACK = 1 + 2 ^ -40  -- Allows for rounding where doubles that approximate exact sums are compared.

local of_keys, of_timestamps

-- Returns the functions of idempotency.lua for a producer, those of remembered_timestamps.lua for timestamps.
local function dedupe(producer)
  if type(producer) == 'table' then
    of_timestamps = of_timestamps or deduplication(now, true)
    return of_timestamps
  end
  of_keys = of_keys or deduplication(now)
  return of_keys
end

-- Adds x to the expansion e, smallest part first, in place: a chain of exact two-sums (Shewchuk's grow-expansion).
local function grow(e, x)
  local size, kept = #e, 0
  for i = 1, size do
    local y = e[i]
    if math.abs(x) < math.abs(y) then x, y = y, x end
    local sum = x + y
    local err = y - (sum - x)
    if err ~= 0 then
      kept = kept + 1
      e[kept] = err
    end
    x = sum
  end
  if x ~= 0 then
    kept = kept + 1
    e[kept] = x
  end
  for i = kept + 1, size do e[i] = nil end
end

-- Returns the canonical form of the expansion e and destroys e: takes the correctly rounded sum of all parts (like the
-- last step of math.fsum, ties to even), then the correctly rounded sum of the rest, and so on.
local function canonical(e)
  local n = #e
  if n < 2 then return e end
  local descending, count = {}, 0
  while n > 0 do
    local high, low = e[n], 0
    n = n - 1
    while n > 0 and low == 0 do
      local y = e[n]
      n = n - 1
      local sum = high + y
      low = y - (sum - high)
      high = sum
    end
    if n > 0 and ((low < 0 and e[n] < 0) or (low > 0 and e[n] > 0)) then
      local twice = 2 * low  -- high + low may be a tie that the remaining parts break the other way.
      local up = high + twice
      if up - high == twice then
        high = up
        low = -low
      end
    end
    count = count + 1
    descending[count] = high
    if low ~= 0 then
      n = n + 1
      e[n] = low
    end
  end
  local ascending = {}
  for i = 1, count do ascending[i] = descending[count + 1 - i] end
  return ascending
end

local function add(totals, deltas)
  for component = 1, #totals do
    local total, delta = totals[component], deltas[component]
    for part = 1, #delta do grow(total, delta[part]) end
    totals[component] = canonical(total)
  end
end

local function in_time(milliseconds)
  return milliseconds > now + MAX_AHEAD and now or milliseconds
end

-- Merges the count and the times of a delta.
local function merge_head(state, delta)
  state[COUNT] = state[COUNT] + delta[COUNT]
  state[FIRST] = math.min(state[FIRST], delta[FIRST])
  state[LAST] = math.max(in_time(state[LAST]), delta[LAST])
  return state
end

local function merge(state, delta)
  merge_head(state, delta)
  local minimums, maximums = state[MINIMUMS], state[MAXIMUMS]
  for component = 1, #minimums do
    minimums[component] = math.min(minimums[component], delta[MINIMUMS][component])
    maximums[component] = math.max(maximums[component], delta[MAXIMUMS][component])
  end
  add(state[SUMS], delta[SUMS])
  add(state[SQUARES], delta[SQUARES])
  return state
end

-- Returns whether these are the parts of an expansion that is at most limit: each part is much smaller than the next
-- larger one, and none is 0.
local function is_expansion(parts, limit)
  if type(parts) ~= 'table' then return false end
  local size = #parts
  for i = size, 1, -1 do
    local part = parts[i]
    if type(part) ~= 'number' then return false end
    if part < 0 then part = -part end
    if not (0 < part and part <= limit) then return false end
    limit = part * HALF_ULP
  end
  return size > 0 or next(parts) == nil
end

-- Returns whether any readings can have these sums. Makes the same comparisons of doubles as _is_possible in
-- core/state.py, so that Python can read every state recorded here. Every comparison is false for NaN.
local function is_possible(count, low, high, sum, square)
  if type(low) ~= 'number' or type(high) ~= 'number' then return false end
  if not (-LARGEST <= low and low <= high and high <= LARGEST) then return false end
  local largest = high > -low and high or -low
  if not is_expansion(sum, largest * count) then return false end
  if not is_expansion(square, largest * largest * count * SLACK) then return false end
  local mean = (sum[#sum] or 0) / count
  return mean * mean <= (square[#square] or 0) / count * SLACK
end

local function is_whole(number, from, to)
  return type(number) == 'number' and from <= number and number <= to and number % 1 == 0
end

local function is_state(state)
  if type(state) ~= 'table' or state[FORMAT] ~= VERSION or type(state[SHAPE]) ~= 'string' then return false end
  if state[SHAPE]:find('[\128-\255]') then
    local rest = state[SHAPE]
    for _, sequence in ipairs({  -- The well-formed sequences beyond ASCII (Unicode, table 3-7).
      '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
      '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
      '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
    }) do rest = rest:gsub(sequence, ' ') end
    if rest:find('[\128-\255]') then return false end
  end
  local count, lows, highs, sums, squares = state[COUNT], state[MINIMUMS], state[MAXIMUMS], state[SUMS], state[SQUARES]
  if not is_whole(count, 1, MAX_COUNT) then return false end
  if not is_whole(state[FIRST], EARLIEST, LATEST) or not is_whole(state[LAST], EARLIEST, LATEST) then return false end
  for member = MINIMUMS, SQUARES do
    if type(state[member]) ~= 'table' or #state[member] ~= #lows then return false end
  end
  for i = 1, #lows do
    if not is_possible(count, lows[i], highs[i], sums[i], squares[i]) then return false end
  end
  if #lows == 0 then return false end
  for member = PRODUCERS, BATCHES do
    if state[member] ~= nil then return dedupe().is_well_formed(state) end
  end
  return true
end

local work = 0
local wide_shapes = {}  -- By key.

local function load(key, is_bounded)
  work = work + ABSENT_WORK
  local stored = redis.pcall('GET', key)
  if not stored then return nil end
  work = work + STREAM_WORK
  if type(stored) ~= 'string' then return UNREADABLE_STATE end
  if is_bounded and #stored > MAX_STATE then
    wide_shapes[key] = select(SHAPE + 1, cmsgpack.unpack_limit(stored, SHAPE, 1))  -- Behind the offset.
    return WIDE_STATE
  end
  work = work + #stored
  local ok, state, more = pcall(cmsgpack.unpack, stored)
  return ok and more == nil and is_state(state) and state or UNREADABLE_STATE
end

local limit, always_store, reserved = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local loaded, states, changed, forgotten, answered = {}, {}, {}, {}, {}

local swapping

local function load_swapped(i, delta, swapped)
  swapping = swapping or swap(merge_head)
  local state, bytes, reason = swapping.read(KEYS[i], swapped)
  work = work + STREAM_WORK + bytes / 16
  if state then state.components = delta[MINIMUMS] end
  return reason == UNREADABLE and UNREADABLE_STATE or reason == STATE_CHANGED and CHANGED_STATE or state
end

local function load_stream(i, delta, swapped)
  loaded[i] = true
  if swapped then
    states[i] = load_swapped(i, delta, swapped)
  else
    states[i] = load(KEYS[i], delta and ARGV[5] ~= '1')
  end
end

local room = limit > 0 and limit - redis.call('DBSIZE') - (reserved or 0) or math.huge

-- Checks the key or the timestamps of a group against the stream at KEYS[i]. Returns what check of idempotency.lua or
-- remembered_timestamps.lua returns.
local function check_key(i, producer, sequence, first)
  if not producer then return NEW end
  return dedupe(producer).check(states[i], producer, sequence, first)
end

local function rejection_of(i, delta, producer, sequence, first)
  local state = states[i]
  if state == UNREADABLE_STATE then return {i, UNREADABLE} end
  if state == WIDE_STATE then
    local shape = wide_shapes[KEYS[i]]
    return type(shape) == 'string' and shape ~= delta[SHAPE] and {i, shape} or {i, TOO_WIDE}
  end
  if state == CHANGED_STATE then return {i, STATE_CHANGED} end
  if not delta then
    local shape, components = unpack(first)
    if state and state[SHAPE] ~= shape then return {i, state[SHAPE]} end
    return state and #state[MINIMUMS] ~= components and {i, UNREADABLE} or nil
  end
  if state and state[SHAPE] ~= delta[SHAPE] then return {i, state[SHAPE]} end
  if state then
    local known, components = state.components or #state[MINIMUMS], delta[MINIMUMS]
    if known ~= (type(components) == 'table' and #components or components) then return {i, UNREADABLE} end
  end
  local outcome, highest, ahead, new = check_key(i, producer, sequence, first)
  if outcome == DUPLICATE then return end
  if outcome == PARTLY_COUNTED then return {i, outcome, highest} end
  if outcome == MIXED_TIMESTAMPS then
    local refused = {i, outcome, #highest, #ahead}
    for _, positions in ipairs({highest, ahead, new}) do
      for _, position in ipairs(positions) do refused[#refused + 1] = position end
    end
    return refused
  end
  if outcome ~= NEW then return {i, outcome} end
  if state and state[COUNT] + delta[COUNT] > MAX_COUNT then return {i, STREAM_FULL} end
end

-- Merges or deletes one stream. Returns true if it had counted this key before.
local function apply(i, delta, swapped, producer, sequence, first)
  answered[i] = true
  if delta and check_key(i, producer, sequence, first) == DUPLICATE then
    changed[i] = changed[i] or always_store
    return true
  end
  if delta then
    delta[FIRST] = in_time(delta[FIRST])
    delta[LAST] = math.max(delta[FIRST], in_time(delta[LAST]))
    if swapped then
      states[i] = swapping.merge(states[i], delta, swapped)
    else
      states[i] = states[i] and merge(states[i], delta) or delta
    end
    if producer then dedupe(producer).mark(states[i], producer, sequence, first) end
  else
    forgotten[i] = true
  end
  changed[i] = states[i] ~= nil
end

local NONE = {}
local STREAM, DELTA, OWN_FIRST, SWAPPED = 1, 2, 3, 4  -- The members of an entry.
local ENTRIES, PRODUCER, SEQUENCE, RANGE_FIRST = 1, 2, 3, 4  -- The members of a group.

local function with(list, item)
  if list == NONE then return {item} end
  list[#list + 1] = item
  return list
end

-- Commits one group, or only checks it. Returns the reply to the group.
local function commit_group(entries, producer, sequence, first)
  local rejections, duplicates, new = NONE, NONE, NONE
  for _, entry in ipairs(entries) do
    local i, delta = entry[STREAM], entry[DELTA]
    if not loaded[i] then load_stream(i, delta, entry[SWAPPED]) end
    local rejected = rejection_of(i, delta, producer, sequence, entry[OWN_FIRST] or first)
    if rejected then rejections = with(rejections, rejected) end
    if delta and not states[i] then new = with(new, {i, TOO_MANY_STREAMS}) end
  end
  if #new > 0 and #new > room then
    for _, rejection in ipairs(new) do rejections = with(rejections, rejection) end
  end
  if rejections == NONE then
    room = room - #new
    for _, entry in ipairs(reserved and NONE or entries) do
      local is_duplicate =
        apply(entry[STREAM], entry[DELTA], entry[SWAPPED], producer, sequence, entry[OWN_FIRST] or first)
      if is_duplicate then duplicates = with(duplicates, entry[STREAM]) end
    end
  end
  return {rejections, duplicates, #new}
end

local replies = {}
for g, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  if work > MAX_WORK then
    replies[g] = {{{0, DEFERRED}}, {}, 0}
  else
    replies[g] = commit_group(group[ENTRIES], group[PRODUCER], group[SEQUENCE], group[RANGE_FIRST])
  end
end

local reply = {cmsgpack.pack(replies)}
for i = 1, #KEYS do
  local state = answered[i] and states[i]
  if not state then
    reply[i + 1] = false
  elseif state.sums then
    reply[i + 1] = swapping.encode(state)
  else
    reply[i + 1] = state.stored or cmsgpack.pack(state)
  end
end
local write = redis.pcall  -- Only an error of the first write proves that nothing was written.
for i, key in ipairs(KEYS) do
  if changed[i] then
    local done
    if forgotten[i] then done = write('DEL', key) else done = write('SET', key, reply[i + 1]) end
    if type(done) == 'table' and done.err then return redis.error_reply('UNWRITTEN ' .. done.err) end
    write = redis.call
  end
end
return reply
