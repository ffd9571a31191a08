-- swap.lua: stores states whose sums the worker has merged (wide_streams.py), unless they have changed since. This is
-- the body of a function, swap(merge_head), which commit.lua calls when it meets the first swap.
--
-- merge_head  The function of commit.lua that merges the count and the times of a delta
-- ARGV[n]     The merged members from minimums to squares, encoded as in a state; n is in the swap
-- Returns     {read, merge, encode}: functions on a state
-- KEYS and the reply are those of commit.lua.
--
-- A swap is {digest, offset, n}: SHA-1 of the state that the worker has merged, '' if the stream did not exist; the
-- offset in that state of the members after its sums; and the number of the ARGV that has the merged sums.

local DIGEST, OFFSET, NUMBER = 1, 2, 3  -- The members of a swap.

-- Reads the state without its sums but with what it remembers of keys, and all of it as it is stored; nil if the stream
-- did not exist and does not exist. Also returns how many bytes were read, and UNREADABLE or STATE_CHANGED if this is
-- not the state that was merged.
local function read(key, swap)
  local stored = redis.pcall('GET', key)
  if not stored then return nil, 0, swap[DIGEST] ~= '' and STATE_CHANGED or nil end
  if type(stored) ~= 'string' then return nil, 0, UNREADABLE end
  if redis.sha1hex(stored) ~= swap[DIGEST] then return nil, #stored, STATE_CHANGED end
  local state = {select(2, cmsgpack.unpack_limit(stored, LAST, 1))}
  if #stored > swap[OFFSET] then
    local remembered = {cmsgpack.unpack(string.sub(stored, swap[OFFSET] + 1))}
    for i, member in ipairs(remembered) do state[SQUARES + i] = member end
  end
  state.stored = stored
  return state, #stored
end

-- Returns the merged state. Only the count and the times are merged here. A delta has the number of components in place
-- of MINIMUMS.
local function merge(state, delta, swap)
  if state then
    merge_head(state, delta)
  else
    state = {delta[FORMAT], delta[SHAPE], delta[COUNT], delta[FIRST], delta[LAST]}
  end
  state.components, state.sums = delta[MINIMUMS], ARGV[swap[NUMBER]]
  return state
end

-- Returns the stored form of the merged state.
local function encode(state)
  local size = SQUARES
  while state[size + 1] ~= nil do size = size + 1 end
  local parts = {string.char(0x90 + size)}
  for i = FORMAT, LAST do parts[i + 1] = cmsgpack.pack(state[i]) end
  parts[#parts + 1] = state.sums
  for i = PRODUCERS, size do parts[#parts + 1] = cmsgpack.pack(state[i]) end
  return table.concat(parts)
end

return {read = read, merge = merge, encode = encode}
