-- commit.lua: folds summaries of readings into the stored states of their streams, and forgets streams. Every write is
-- one run of this script. Functions are made anew in every run; so those of once.lua and swap.lua, which stand before
-- this as functions, are made only where they are needed. The members of a state and the reasons of a rejection are
-- written by name; store.py puts their numbers in, which are those of Python.
--
-- KEYS[i]   the key of a stream; every key once
-- ARGV[1]   MessagePack: an array of groups. A group is {entries}; with an idempotency key {entries, producer,
--           sequence, first}, first only if that is a range; with timestamps {entries, stamps, digest, completes}, see
--           once.lua: with completes the stamps are the last ones of the batch that has the digest. An entry is {i,
--           delta}: a summary for the stream at KEYS[i]; {i, delta, first}: the range of this stream starts there, if
--           first is not false; {i, delta, first, swap}: the sums were merged elsewhere, see swap.lua; or {i, false,
--           {shape, components}}: forget that stream, if it has that shape. The entries of a group stand or fall
--           together, with a stream at most once.
-- ARGV[2]   the most keys that the database may have; past it new streams are refused. 0 for no limit
-- ARGV[3]   '1' to store also what only had duplicates: then the replicas that WAIT counts have what they repeat
-- ARGV[4]   how many new streams have room already, because a group before asked for them; or nil, to record. With it
--           nothing is written: it is only said what would be refused. Of a delta, members 2 and 3 count, and 6 is the
--           number of components
-- ARGV[5]   '1' to merge however wide a state is
-- Reply     {replies, state_1, ..., state_n}
--           replies: MessagePack, one a group: {rejections, duplicates, how many of its streams are new}. Rejections
--           are {i, reason}; if there are any, nothing of the group is recorded. The reason is the stored shape if it
--           is another one, or a RejectReason (commit_reply.py). Behind PARTLY_COUNTED stands the highest sequence;
--           behind MIXED, how many stamps are unknown and how many ahead, then the positions of those, and of the new
--           ones. {0, PUT_OFF}: the groups before it were work enough for one run; {i, WIDE}: the state takes too long
--           to merge; {i, CHANGED}: it does not have that digest. Duplicates are the i that had counted it before.
--           state_i: the state of KEYS[i] after this commit, in MessagePack, or its last one if it was forgotten; nil
--           where every group was refused or there was nothing to forget.
--
-- A delta has the form of a state (core/state.py), whose members are named here as there. Sums are canonical
-- expansions, smallest part first (core/exact_sums.py); this is the same law as Summary.merge, to the bit. Lua's
-- numbers are IEEE doubles and cmsgpack keeps every one of them; nothing here may pass through tostring, which keeps 14
-- digits.
--
-- The times of readings decide nothing but the first and the last one. A time more than ten minutes ahead of the clock
-- of Redis is taken as now, so that one wrong clock cannot pin the last time of a stream in the future.
--
-- Everything is read, checked and encoded before the first write, so an error on the way leaves nothing half written.
-- If the server refuses the first write, the reply is the error UNWRITTEN: nothing was recorded.

local clock = redis.pcall('TIME')
if clock.err then return redis.error_reply('UNWRITTEN ' .. clock.err) end
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- Milliseconds since 1970.

local VERSION = 1  -- Of the format.
local UNREADABLE_STATE, WIDE_STATE, OTHER_STATE = {}, {}, {}  -- In place of a state.

local NEW, DUPLICATE = 'new', 'duplicate'  -- Of once.lua.
local MAX_COUNT = 2 ^ 53 - 1
local MAX_WORK = 60000  -- Bytes of states that one run reads, before it leaves the other groups for the next.
local MAX_STATE = 100000  -- Bytes of a state that is merged here.
local WORK_OF_A_STREAM, WORK_OF_NONE = 250, 50  -- Bytes whose work is that of a stream, however small, or of none.
local EARLY = 10 * 60 * 1000  -- Milliseconds that the time of a reading may be ahead.
local EARLIEST, LATEST = -62135596800000, 253402300799999  -- The years 1 to 9999.
local LARGEST = 1e140  -- Of the numbers in a reading.
local HALF_ULP = 2 ^ -53  -- Of a double, in proportion to it, at most.
local SLACK = 1 + 2 ^ -40  -- For roundings, where doubles are compared that stand for exact sums.

local made
local function memory()
  made = made or once(now)
  return made
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

-- The canonical form of the expansion e, which it consumes: takes the correctly rounded sum off the top (as the last
-- step of math.fsum does, ties to even), then that of the rest, and so on.
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
      local twice = 2 * low  -- high + low may be a tie that the rest decides the other way.
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
  return milliseconds > now + EARLY and now or milliseconds
end

-- Merges all of a delta but its sums.
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

-- Whether these are the parts of an expansion that is at most limit: each much smaller than the one above it, and none
-- 0.
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

-- Whether some readings can have these sums: the same comparisons of doubles as _is_possible in core/state.py makes,
-- so that whatever is recorded here can be read there. Every comparison is false for NaN.
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
    for _, sequence in ipairs({  -- That are well-formed, beyond ASCII (Unicode, table 3-7).
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
    if state[member] ~= nil then return memory().is_memory(state) end
  end
  return true
end

local work = 0

local function load(key, is_bounded)
  work = work + WORK_OF_NONE
  local stored = redis.pcall('GET', key)
  if not stored then return nil end
  work = work + WORK_OF_A_STREAM
  if type(stored) ~= 'string' then return UNREADABLE_STATE end
  if is_bounded and #stored > MAX_STATE then return WIDE_STATE end
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
  work = work + WORK_OF_A_STREAM + bytes / 16
  if state then state.components = delta[MINIMUMS] end
  return reason == UNREADABLE and UNREADABLE_STATE or reason == CHANGED and OTHER_STATE or state
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

-- What the stream at KEYS[i] says to the key or the timestamps of a group, as check and check_stamps of once.lua do.
local function check_key(i, producer, sequence, first)
  if not producer then return NEW end
  if type(producer) == 'table' then return memory().check_stamps(states[i], producer, sequence) end
  return memory().check(states[i], producer, sequence, first)
end

local function rejection_of(i, delta, producer, sequence, first)
  local state = states[i]
  if state == UNREADABLE_STATE then return {i, UNREADABLE} end
  if state == WIDE_STATE then return {i, WIDE} end
  if state == OTHER_STATE then return {i, CHANGED} end
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
  if outcome == MIXED then
    local refused = {i, outcome, #highest, #ahead}
    for _, positions in ipairs({highest, ahead, new}) do
      for _, position in ipairs(positions) do refused[#refused + 1] = position end
    end
    return refused
  end
  if outcome ~= NEW then return {i, outcome} end
  if state and state[COUNT] + delta[COUNT] > MAX_COUNT then return {i, STREAM_FULL} end
end

-- Merges or forgets one stream; true if it had counted this key before.
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
    if type(producer) == 'table' then
      memory().mark_stamps(states[i], producer, first and sequence)
    elseif producer then
      memory().mark(states[i], producer, sequence, first)
    end
  else
    forgotten[i] = true
  end
  changed[i] = states[i] ~= nil
end

local NONE = {}
local STREAM, DELTA, OWN_FIRST, SWAPPED = 1, 2, 3, 4  -- Of an entry.
local ENTRIES, PRODUCER, SEQUENCE, RANGE_FIRST = 1, 2, 3, 4  -- Of a group.

local function with(list, item)
  if list == NONE then return {item} end
  list[#list + 1] = item
  return list
end

-- Commits one group, or only checks it; its reply.
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
    replies[g] = {{{0, PUT_OFF}}, {}, 0}
  else
    replies[g] = commit_group(group[ENTRIES], group[PRODUCER], group[SEQUENCE], group[RANGE_FIRST])
  end
end

local reply = {cmsgpack.pack(replies)}
for i = 1, #KEYS do
  local state = answered[i] and states[i]
  reply[i + 1] = state and (state.sums and swapping.encode(state) or cmsgpack.pack(state)) or false
end
local write = redis.pcall  -- If the first write is refused, nothing was written; any later one must not say so.
for i, key in ipairs(KEYS) do
  if changed[i] then
    local done
    if forgotten[i] then done = write('DEL', key) else done = write('SET', key, reply[i + 1]) end
    if type(done) == 'table' and done.err then return redis.error_reply('UNWRITTEN ' .. done.err) end
    write = redis.call
  end
end
return reply
