-- remembered_timestamps.lua: what a stream remembers of the timestamps that it has counted, so that it counts nothing
-- twice. This is the body of a function, which commit.lua calls when it meets the first timestamps. idempotency.lua
-- does the same for keys. core/idempotency_keys.py explains the rules.
--
-- now       The time of the Redis server, in milliseconds since 1970
-- Returns   {examine, mark}: functions on a state
-- KEYS, ARGV and the reply are those of commit.lua; this function uses none of them.
--
-- A state that has counted timestamps has PRODUCERS and RETIRED, which may be empty, and two more members:
--
--   TIMESTAMPS  {seconds, ns, seconds, ns, ...}: the floor, then the latest timestamps counted, ascending. A timestamp
--               up to the floor was counted if it is in this list; otherwise nothing is known of it.
--   BATCHES     {digest, digest, ...}: the last batches of timestamps that were counted completely, the oldest in front
--
-- No clock decides whether something is counted twice. The clock of the Redis server only decides which timestamps are
-- too far in the future.

local MAX_TIMESTAMPS, MAX_BATCHES = 64, 16

local NEW, DUPLICATE = 'new', 'duplicate'  -- Outcomes of a check.

local BEFORE_ALL = -(2 ^ 53)  -- Seconds of a floor below all timestamps.
local DAY = 24 * 60 * 60  -- Seconds.

local function is_before(seconds, ns, other_seconds, other_ns)
  return seconds < other_seconds or (seconds == other_seconds and ns < other_ns)
end

-- Checks timestamps ({seconds, ns, seconds, ns, ...}, ascending). Returns DUPLICATE if all were counted, NEW if all are
-- new, or else MIXED_TIMESTAMPS and the positions (from 0) of the unknown ones, those ahead, and the new ones.
local function check(state, timestamps, digest)
  for _, batch in ipairs(state and state[BATCHES] or {}) do
    if batch == digest then return DUPLICATE end
  end
  local known = state and state[TIMESTAMPS] or {BEFORE_ALL, 0}
  local unknown, ahead, new = {}, {}, {}
  local at = 3
  for i = 1, #timestamps, 2 do
    local seconds, ns, position = timestamps[i], timestamps[i + 1], (i - 1) / 2
    while known[at] and is_before(known[at], known[at + 1], seconds, ns) do at = at + 2 end
    if known[at] ~= seconds or known[at + 1] ~= ns then
      if not is_before(known[1], known[2], seconds, ns) then
        unknown[#unknown + 1] = position
      elseif seconds > now / 1000 + DAY then
        ahead[#ahead + 1] = position
      else
        new[#new + 1] = position
      end
    end
  end
  if #new == #timestamps / 2 then return NEW end
  if #new + #unknown + #ahead == 0 then return DUPLICATE end
  return MIXED_TIMESTAMPS, unknown, ahead, new
end

-- Marks timestamps as counted for which check returned NEW, and the batch with this digest if they complete it.
local function mark(state, timestamps, digest, completes)
  local known = state[TIMESTAMPS] or {BEFORE_ALL, 0}
  local merged, at = {}, 3
  for i = 1, #timestamps, 2 do
    while known[at] and is_before(known[at], known[at + 1], timestamps[i], timestamps[i + 1]) do
      merged[#merged + 1], merged[#merged + 2] = known[at], known[at + 1]
      at = at + 2
    end
    merged[#merged + 1], merged[#merged + 2] = timestamps[i], timestamps[i + 1]
  end
  for i = at, #known do merged[#merged + 1] = known[i] end
  local dropped = math.max(0, #merged - 2 * MAX_TIMESTAMPS)
  local kept = dropped > 0 and {merged[dropped - 1], merged[dropped]} or {known[1], known[2]}
  for i = dropped + 1, #merged do kept[#kept + 1] = merged[i] end
  for member = PRODUCERS, BATCHES do state[member] = state[member] or {} end  -- An array must not have holes.
  state[TIMESTAMPS] = kept
  if completes then
    local batches = state[BATCHES]
    batches[#batches + 1] = digest
    if #batches > MAX_BATCHES then table.remove(batches, 1) end
  end
end

-- Examines timestamps and the digest of their batch for the stream at KEYS[i]. Returns a rejection, or nil and whether
-- the stream has counted all of them before.
local function examine(i, state, timestamps, digest)
  local outcome, unknown, ahead, new = check(state, timestamps, digest)
  if outcome ~= MIXED_TIMESTAMPS then return nil, outcome == DUPLICATE end
  local rejection = {i, outcome, #unknown, #ahead}
  for _, positions in ipairs({unknown, ahead, new}) do
    for _, position in ipairs(positions) do rejection[#rejection + 1] = position end
  end
  return rejection
end

return {examine = examine, mark = mark}
