#!lua
-- commit.lua: folds summaries of readings into the stored states of their streams, and forgets streams. Every write is
-- one run of this script.
--
-- KEYS[i]   the key of a stream; every key once
-- ARGV[1]   MessagePack: an array of groups; a group is an array of {i, delta}: a summary for the stream at KEYS[i], or
--           of {i}: forget that stream. The entries of a group stand or fall together, with a stream at most once.
-- Reply     {verdicts, state_1, ..., state_n}
--           verdicts: MessagePack, one entry a group: an empty array if it is recorded, otherwise an array of
--           {i, shape}: the streams that refuse it with their stored shape, false if their state is not readable.
--           state_i: the state of KEYS[i] after this commit, in MessagePack, or its last one if it was forgotten; nil
--           where nothing was recorded or there was nothing to forget.
--
-- A delta has the form of a state (service/store.py): {1: version, 2: shape, 3: count, 4: first, 5: last, 6: minimums,
-- 7: maximums, 8: sums, 9: squares}. Sums are canonical expansions, smallest part first (service/exact.py); this is the
-- same law as Summary.merge, to the bit. Lua's numbers are IEEE doubles and cmsgpack keeps every one of them; nothing
-- here may pass through tostring, which keeps 14 digits.
--
-- Everything is read, checked and encoded before the first write, so an error on the way leaves nothing half written.

local VERSION = 1
local UNREADABLE = {}

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

local function is_state(state)
  if type(state) ~= 'table' or state[1] ~= VERSION or type(state[2]) ~= 'string' then return false end
  if not is_list({state[3], state[4], state[5]}, 'number', 3) or state[3] < 1 then return false end
  if not is_list(state[6], 'number') or not is_list(state[7], 'number', #state[6]) then return false end
  for i = 8, 9 do
    if not is_list(state[i], 'table', #state[6]) then return false end
    for component = 1, #state[i] do
      if not is_list(state[i][component], 'number') then return false end
    end
  end
  return #state[6] > 0
end

local function load(key)
  local stored = redis.pcall('GET', key)
  if not stored then return nil end
  if type(stored) ~= 'string' then return UNREADABLE end
  local ok, state, more = pcall(cmsgpack.unpack, stored)
  return ok and more == nil and is_state(state) and state or UNREADABLE
end

local states, touched, forgotten = {}, {}, {}
for i, key in ipairs(KEYS) do states[i] = load(key) end

local verdicts = {}
for g, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  local refusals = {}
  for _, entry in ipairs(group) do
    local i, delta = entry[1], entry[2]
    local state = states[i]
    if state == UNREADABLE then
      refusals[#refusals + 1] = {i, false}
    elseif state and delta and state[2] ~= delta[2] then
      refusals[#refusals + 1] = {i, state[2]}
    end
  end
  if #refusals == 0 then
    for _, entry in ipairs(group) do
      local i, delta = entry[1], entry[2]
      if delta then
        states[i] = states[i] and merge(states[i], delta) or delta
      else
        forgotten[i] = true
      end
      touched[i] = states[i] ~= nil
    end
  end
  verdicts[g] = refusals
end

local reply = {cmsgpack.pack(verdicts)}
for i = 1, #KEYS do reply[i + 1] = touched[i] and cmsgpack.pack(states[i]) or false end
for i, key in ipairs(KEYS) do
  if touched[i] then
    if forgotten[i] then redis.call('DEL', key) else redis.call('SET', key, reply[i + 1]) end
  end
end
return reply
