-- swap.lua: stores states whose sums the worker has merged (wide_streams.py), unless they have changed since. This is
-- the body of a function, swap(merge_head), which commit.lua calls when it meets the first swap.
--
-- merge_head  The function of commit.lua that merges the count and the times of a delta
-- ARGV[n]     The merged members from latest to squares, encoded as in a state; n is in the swap
-- Returns     {read, merge, pack}: functions on a state
-- KEYS and the reply are those of commit.lua.
--
-- A swap is {digest, offset, n}: SHA-1 of the state that the worker has merged, '' if the stream did not exist; the
-- offset in that state of the members after its sums; and the number of the ARGV that has the merged sums.

local DIGEST, OFFSET, NUMBER = 1, 2, 3  -- The members of a swap.

-- Reads the state without its sums but with what it remembers of keys; false if the stream did not exist and does not
-- exist, or a reject reason if this is not the state that was merged. Also returns the work so far.
local function read(key, delta, swap, work)
  local stored = redis.pcall('GET', key)
  if not stored then return swap[DIGEST] ~= '' and STATE_CHANGED, work + STREAM_WORK end
  if type(stored) ~= 'string' then return UNREADABLE, work + STREAM_WORK end
  work = work + STREAM_WORK + #stored / 16
  if redis.sha1hex(stored) ~= swap[DIGEST] then return STATE_CHANGED, work end
  local header = string.byte(stored) == ARRAY_16 and 3 or 1
  local state = {select(2, cmsgpack.unpack_limit(stored, LAST, header))}
  local remembered = string.sub(stored, swap[OFFSET] + 1, state[FORMAT] == 1 and -1 or -CHECKSUM_LENGTH - 1)
  for i, member in ipairs(remembered ~= '' and {cmsgpack.unpack(remembered)} or {}) do
    state[SQUARES + i] = member
  end
  state[FORMAT] = VERSION  -- The worker has merged it in this version.
  state.components, state.stored = delta[LATEST], stored
  return state, work
end

-- Returns the merged state. Only the count and the times are merged here. A delta has the number of components in place
-- of LATEST.
local function merge(state, delta, swap)
  if state then
    merge_head(state, delta)
  else
    state = {delta[FORMAT], delta[SHAPE], delta[COUNT], delta[FIRST], delta[LAST]}
  end
  state.components, state.stored, state.sums = delta[LATEST], nil, ARGV[swap[NUMBER]]
  return state
end

-- Returns the encoded members of a merged state.
local function pack(state)
  local size = SQUARES
  while state[size + 1] ~= nil do size = size + 1 end
  local parts = {size < 16 and string.char(0x90 + size) or string.char(ARRAY_16, 0, size)}
  for i = FORMAT, LAST do parts[i + 1] = cmsgpack.pack(state[i]) end
  parts[#parts + 1] = state.sums
  for i = PRODUCERS, size do parts[#parts + 1] = cmsgpack.pack(state[i]) end
  return table.concat(parts)
end

return {read = read, merge = merge, pack = pack}
