#!lua
-- commit.lua: folds summaries of readings into the stored states of their streams, and forgets streams. Every write is
-- one run of this script.
--
-- KEYS[i]   the key of a stream; every key once
-- ARGV[1]   MessagePack: an array of groups; a group is {entries, producer, sequence, now, first}, the last four only
--           if it has an idempotency key, first only if that is a range. An entry is {i, delta}: a summary for the
--           stream at KEYS[i], or {i}: forget that stream. The entries of a group stand or fall together, with a stream
--           at most once.
-- ARGV[2]   the most keys that the database may have; past it new streams are refused. 0 for no limit
-- ARGV[3]   '1' to store also what only had duplicates: then the replicas that WAIT counts have what they repeat
-- Reply     {verdicts, state_1, ..., state_n}
--           verdicts: MessagePack, one a group: {refusals, duplicates}. Refusals are {i, reason}; if there are any,
--           nothing of the group is recorded. The reason is the stored shape if it is another one, false if the state
--           is not readable, or a number: BELOW, FULL or PARTLY about the key, with PARTLY the highest sequence as a
--           third item; CROWDED past the limit. Duplicates are the i that had counted it before.
--           state_i: the state of KEYS[i] after this commit, in MessagePack, or its last one if it was forgotten; nil
--           where every group was refused or there was nothing to forget.
--
-- A delta has the form of a state (service/state.py): {1: version, 2: shape, 3: count, 4: first, 5: last, 6: minimums,
-- 7: maximums, 8: sums, 9: squares}, and a state that has counted keys has 10: an array of {producer, highest sequence,
-- window of the 32 sequences below it, window of the 32 below those, when it last counted} (service/idempotency.py).
-- Sums are canonical expansions, smallest part first (service/exact.py); this is the same law as Summary.merge, to the
-- bit. Lua's numbers are IEEE doubles and cmsgpack keeps every one of them; nothing here may pass through tostring,
-- which keeps 14 digits.
--
-- Everything is read, checked and encoded before the first write, so an error on the way leaves nothing half written.
-- If the server refuses the first write, the reply is the error UNWRITTEN: nothing was recorded.

local VERSION = 1
local UNREADABLE = {}

local BELOW, FULL, CROWDED, PARTLY = 1, 2, 3, 4
local ALL = 2 ^ 32 - 1  -- Half a window in which every sequence has come.
local MOST_PRODUCERS = 16
local IDLE = 24 * 60 * 60 * 1000  -- Milliseconds after which a producer makes room.

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

local function merge(state, delta)
  state[3] = state[3] + delta[3]
  state[4] = math.min(state[4], delta[4])
  state[5] = math.max(state[5], delta[5])
  local minimums, maximums = state[6], state[7]
  for component = 1, #minimums do
    minimums[component] = math.min(minimums[component], delta[6][component])
    maximums[component] = math.max(maximums[component], delta[7][component])
  end
  add(state[8], delta[8])
  add(state[9], delta[9])
  return state
end

-- Whether list is a table of that many entries, or of any number, all of this type.
local function is_list(list, kind, size)
  if type(list) ~= 'table' or (size and #list ~= size) then return false end
  for i = 1, #list do
    if type(list[i]) ~= kind then return false end
  end
  return true
end

-- The windows are two numbers of 32 bits, the lowest bit for the sequence just below the highest: doubles hold 53.
local function has_bit(window, bit)
  return math.floor(window / 2 ^ bit) % 2 == 1
end

-- What the stream says to a key: 'new', 'duplicate', BELOW, FULL or PARTLY; and the producer's entry if it has one.
local function check(state, producer, sequence, now, first)
  local producers = state and state[10] or {}
  local has_room = #producers < MOST_PRODUCERS
  for _, entry in ipairs(producers) do
    if entry[1] == producer and first then
      if entry[2] >= sequence then return 'duplicate' end
      return entry[2] < first and 'new' or PARTLY, entry
    end
    if entry[1] == producer then
      local below = entry[2] - sequence - 1  -- 0 for the sequence just below the highest.
      if below < -1 then return 'new', entry end
      if below == -1 then return 'duplicate' end
      if below >= 64 then return BELOW end
      local seen = has_bit(entry[below < 32 and 3 or 4], below % 32)
      return seen and 'duplicate' or 'new', entry
    end
    if now - entry[5] >= IDLE then has_room = true end
  end
  return has_room and 'new' or FULL
end

-- Marks a key that check called new as counted. Makes room for a new producer: the one that is idle longest leaves.
local function mark(state, producer, sequence, now, first)
  local _, entry = check(state, producer, sequence, now, first)
  if not entry then
    local producers = state[10] or {}
    local place = #producers + 1
    if place > MOST_PRODUCERS then
      place = 1
      for i = 2, MOST_PRODUCERS do
        if producers[i][5] < producers[place][5] then place = i end
      end
    end
    producers[place] = {producer, sequence, first and ALL or 0, first and ALL or 0, now}
    state[10] = producers
    return
  end
  local up = sequence - entry[2]
  if first then
    entry[2], entry[3], entry[4] = sequence, ALL, ALL
  elseif up < 0 then
    local below = -up - 1
    local word = below < 32 and 3 or 4
    entry[word] = entry[word] + 2 ^ (below % 32)
  else
    local near, far = entry[3], entry[4]
    if up < 32 then
      entry[4] = (far * 2 ^ up) % 2 ^ 32 + math.floor(near / 2 ^ (32 - up))
      entry[3] = (near * 2 ^ up) % 2 ^ 32
    elseif up < 64 then
      entry[4] = (near * 2 ^ (up - 32)) % 2 ^ 32
      entry[3] = 0
    else
      entry[3], entry[4] = 0, 0
    end
    if up <= 32 then
      entry[3] = entry[3] + 2 ^ (up - 1)  -- The highest until now.
    elseif up <= 64 then
      entry[4] = entry[4] + 2 ^ (up - 33)
    end
    entry[2] = sequence
  end
  entry[5] = math.max(entry[5], now)
end

local function is_window(producers)
  if not is_list(producers, 'table') then return false end
  for _, entry in ipairs(producers) do
    if type(entry[1]) ~= 'string' then return false end
    if not is_list({entry[2], entry[3], entry[4], entry[5]}, 'number', 4) then return false end
  end
  return true
end

local function is_state(state)
  if type(state) ~= 'table' or state[1] ~= VERSION or type(state[2]) ~= 'string' then return false end
  if not is_list({state[3], state[4], state[5]}, 'number', 3) or state[3] < 1 then return false end
  if state[3] % 1 + state[4] % 1 + state[5] % 1 ~= 0 then return false end
  if not is_list(state[6], 'number') or not is_list(state[7], 'number', #state[6]) then return false end
  for i = 8, 9 do
    if not is_list(state[i], 'table', #state[6]) then return false end
    for component = 1, #state[i] do
      if not is_list(state[i][component], 'number') then return false end
    end
  end
  return #state[6] > 0 and (state[10] == nil or is_window(state[10]))
end

local function load(key)
  local stored = redis.pcall('GET', key)
  if not stored then return nil end
  if type(stored) ~= 'string' then return UNREADABLE end
  local ok, state, more = pcall(cmsgpack.unpack, stored)
  return ok and more == nil and is_state(state) and state or UNREADABLE
end

local states, changed, forgotten, answered = {}, {}, {}, {}
for i, key in ipairs(KEYS) do states[i] = load(key) end

local limit, always_store = tonumber(ARGV[2]), ARGV[3] == '1'
local room = limit > 0 and limit - redis.call('DBSIZE') or math.huge

local function refusal(i, delta, producer, sequence, now, first)
  local state = states[i]
  if state == UNREADABLE then return {i, false} end
  if state and delta and state[2] ~= delta[2] then return {i, state[2]} end
  if state and delta and #state[6] ~= #delta[6] then return {i, false} end
  if not producer then return end
  local verdict, entry = check(state, producer, sequence, now, first)
  if verdict == PARTLY then return {i, PARTLY, entry[2]} end
  if verdict == BELOW or verdict == FULL then return {i, verdict} end
end

-- Merges or forgets one stream; true if it had counted this key before.
local function apply(i, delta, producer, sequence, now, first)
  answered[i] = true
  if producer and check(states[i], producer, sequence, now, first) == 'duplicate' then
    changed[i] = changed[i] or always_store
    return true
  end
  if delta then
    states[i] = states[i] and merge(states[i], delta) or delta
    if producer then mark(states[i], producer, sequence, now, first) end
  else
    forgotten[i] = true
  end
  changed[i] = states[i] ~= nil
end

local verdicts = {}
for g, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  local entries, producer, sequence, now, first = group[1], group[2], group[3], group[4], group[5]
  local refusals, duplicates, new = {}, {}, {}
  for _, entry in ipairs(entries) do
    refusals[#refusals + 1] = refusal(entry[1], entry[2], producer, sequence, now, first)
    if entry[2] and not states[entry[1]] then new[#new + 1] = {entry[1], CROWDED} end
  end
  if #new > 0 and #new > room then
    for _, crowded in ipairs(new) do refusals[#refusals + 1] = crowded end
  end
  if #refusals == 0 then
    room = room - #new
    for _, entry in ipairs(entries) do
      if apply(entry[1], entry[2], producer, sequence, now, first) then duplicates[#duplicates + 1] = entry[1] end
    end
  end
  verdicts[g] = {refusals, duplicates}
end

local reply = {cmsgpack.pack(verdicts)}
for i = 1, #KEYS do reply[i + 1] = answered[i] and states[i] and cmsgpack.pack(states[i]) or false end
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
