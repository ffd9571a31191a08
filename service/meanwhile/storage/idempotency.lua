-- idempotency.lua: what a stream remembers of the idempotency keys that it has counted, so that it counts nothing
-- twice. This is the body of a function, which commit.lua calls when it meets the first key. remembered_timestamps.lua
-- does the same for timestamps. core/idempotency_keys.py explains the rules.
--
-- now       The time of the Redis server, in milliseconds since 1970
-- Returns   {examine, mark}: functions on a state
-- KEYS, ARGV and the reply are those of commit.lua; this function uses none of them.
--
-- A state that has counted keys has up to two more members:
--
--   PRODUCERS   an array of {producer, highest sequence, window of the 32 sequences below it, window of the 32 below
--               those, when it last counted (ms since 1970), floor}. Only a producer that came back from RETIRED has a
--               floor: nothing is known of the sequences below it; the floor itself is counted.
--   RETIRED     {digest, highest sequence, hour, digest, highest sequence, hour, ...}: retired producers, the one that
--               retired first in front. digest is 52 bits of SHA-1 of the name, hour is the hour since 1970 in which
--               the producer last counted.
--
-- All times are those of the Redis server. No clock decides whether something is counted twice. The clock only decides
-- which producer is remembered without its window, and which sequences are too far in the future.

-- The members of an entry of PRODUCERS.
local NAME, HIGHEST, NEAR_WINDOW, FAR_WINDOW, COUNTED_AT, FLOOR = 1, 2, 3, 4, 5, 6
local MAX_PRODUCERS, MAX_RETIRED = 16, 1000

local NEW, DUPLICATE = 'new', 'duplicate'  -- Outcomes of a check.

local ALL = 2 ^ 32 - 1  -- Half a window in which every sequence is counted.
local DAY = 24 * 60 * 60  -- Seconds.
-- A sequence in one of these intervals reads as a time: from 2020 to 2106 (the end of 32 bits) in seconds since 1970,
-- from 2020 to 2200 in milliseconds and in microseconds.
local CLOCKS = {{1, 1577836800, 4294967295}, {1e3, 1577836800e3, 7258118400e3}, {1e6, 1577836800e6, 7258118400e6}}

local hour = math.floor(now / 3600000)

local function digest_of(producer)
  return tonumber(string.sub(redis.sha1hex(producer), 1, 13), 16)
end

-- A window is two numbers of 32 bits, because a double holds 53 bits. The lowest bit is for the sequence just below the
-- highest.
local function has_bit(window, bit)
  return math.floor(window / 2 ^ bit) % 2 == 1
end

-- Returns the highest sequence of a producer, and its entry or else its position in RETIRED. Returns nothing if the
-- stream does not remember it.
local function find(state, producer)
  for _, entry in ipairs(state and state[PRODUCERS] or {}) do
    if entry[NAME] == producer then return entry[HIGHEST], entry end
  end
  local retired = state and state[RETIRED] or {}
  local digest = #retired > 0 and digest_of(producer)
  for i = 1, #retired, 3 do
    if retired[i] == digest then return retired[i + 1], nil, i end
  end
end

-- Returns whether a sequence reads as a time that is more than a day ahead of the clock and of the earlier sequences.
-- If the earlier sequences do not read as times, the producer counts something else.
local function is_ahead(sequence, highest)
  for _, unit in ipairs(CLOCKS) do
    local scale, from, to = unit[1], unit[2], unit[3]
    if sequence >= from and sequence <= to and (not highest or highest >= from) then
      return sequence > math.max(now / 1000 * scale, highest or 0) + DAY * scale
    end
  end
  return false
end

-- Returns whether the stream can remember another producer. If RETIRED is full, its first producer can be forgotten an
-- hour after it last counted, or at once if that time is in the future because a clock was wrong.
local function has_room(state)
  local retired = state and state[RETIRED] or {}
  if #(state and state[PRODUCERS] or {}) < MAX_PRODUCERS or #retired < 3 * MAX_RETIRED then return true end
  return math.abs(hour - retired[3]) > 1
end

-- Checks a key against the stream. Returns NEW, DUPLICATE or a reject reason; with PARTLY_COUNTED also the highest
-- sequence.
local function check(state, producer, sequence, first)
  local highest, entry = find(state, producer)
  if highest and first then
    if highest >= sequence then return DUPLICATE end
    if highest >= first then return PARTLY_COUNTED, highest end
  elseif highest and sequence <= highest then
    local floor = entry and entry[FLOOR] or not entry and highest
    local below = highest - sequence - 1  -- 0 for the sequence just below the highest.
    if below == -1 or sequence == floor then return DUPLICATE end
    if below >= 64 or (floor and sequence < floor) then return KEY_TOO_OLD end
    return has_bit(entry[below < 32 and NEAR_WINDOW or FAR_WINDOW], below % 32) and DUPLICATE or NEW
  end
  if is_ahead(sequence, highest) then return KEY_AHEAD end
  return (highest or has_room(state)) and NEW or TOO_MANY_PRODUCERS
end

-- Makes room for one more producer: the producer that has been idle longest retires.
local function retire(state)
  local producers, retired = state[PRODUCERS], state[RETIRED] or {}
  local longest = 1
  for i, entry in ipairs(producers) do
    entry[COUNTED_AT] = math.min(entry[COUNTED_AT], now)  -- It is in the future only if a clock was wrong.
    if entry[COUNTED_AT] < producers[longest][COUNTED_AT] then longest = i end
  end
  local entry = table.remove(producers, longest)
  while #retired > 3 * (MAX_RETIRED - 1) do table.remove(retired, 1) end
  for _, number in ipairs({digest_of(entry[NAME]), entry[HIGHEST], math.floor(entry[COUNTED_AT] / 3600000)}) do
    retired[#retired + 1] = number
  end
  state[RETIRED] = retired
end

-- Marks a key as counted for which check returned NEW.
local function mark(state, producer, sequence, first)
  local highest, entry, place = find(state, producer)
  state[PRODUCERS] = state[PRODUCERS] or {}
  if place then
    for _ = 1, 3 do table.remove(state[RETIRED], place) end
  end
  if not entry then
    if #state[PRODUCERS] >= MAX_PRODUCERS then retire(state) end
    entry = {producer, highest or sequence, 0, 0, now, highest}
    table.insert(state[PRODUCERS], entry)
  end
  local up = sequence - entry[HIGHEST]
  if first then
    entry[HIGHEST], entry[NEAR_WINDOW], entry[FAR_WINDOW], entry[FLOOR] = sequence, ALL, ALL, nil
  elseif up < 0 then
    local below = -up - 1
    local window = below < 32 and NEAR_WINDOW or FAR_WINDOW
    entry[window] = entry[window] + 2 ^ (below % 32)
  elseif up > 0 then
    local near, far = entry[NEAR_WINDOW], entry[FAR_WINDOW]
    if up < 32 then
      entry[FAR_WINDOW] = (far * 2 ^ up) % 2 ^ 32 + math.floor(near / 2 ^ (32 - up))
      entry[NEAR_WINDOW] = (near * 2 ^ up) % 2 ^ 32
    elseif up < 64 then
      entry[FAR_WINDOW] = (near * 2 ^ (up - 32)) % 2 ^ 32
      entry[NEAR_WINDOW] = 0
    else
      entry[NEAR_WINDOW], entry[FAR_WINDOW] = 0, 0
    end
    if up <= 32 then
      entry[NEAR_WINDOW] = entry[NEAR_WINDOW] + 2 ^ (up - 1)  -- The bit of the previous highest.
    elseif up <= 64 then
      entry[FAR_WINDOW] = entry[FAR_WINDOW] + 2 ^ (up - 33)
    end
    entry[HIGHEST] = sequence
  end
  entry[COUNTED_AT] = now
end

-- Examines a key for the stream at KEYS[i]. Returns a rejection, or nil and whether the stream has counted it before.
local function examine(i, state, producer, sequence, first)
  local outcome, highest = check(state, producer, sequence, first)
  if outcome == NEW or outcome == DUPLICATE then return nil, outcome == DUPLICATE end
  return {i, outcome, highest}
end

return {examine = examine, mark = mark}
