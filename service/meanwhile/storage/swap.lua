-- swap.lua: streams whose sums were merged by the worker (wide_streams.py), to be stored if nobody was faster. It is
-- the body of a function, swap(merge_head), that commit.lua calls when the first of them is there.
--
-- A swap is {digest, offset, n}: SHA-1 of the state that was merged, '' if there was none; where the members behind its
-- sums start; and which ARGV has the new sums, from minimums to squares as they stand in a state.

local DIGEST, OFFSET, NUMBER = 1, 2, 3  -- Of a swap.

-- The state as it was before it was merged, without its sums but with what it remembers; nil if there was none and
-- there is none. Also how many bytes were looked at, and UNREADABLE or CHANGED if it is not the state that was merged.
local function read(key, swap)
  local stored = redis.pcall('GET', key)
  if not stored then return nil, 0, swap[DIGEST] ~= '' and CHANGED or nil end
  if type(stored) ~= 'string' then return nil, 0, UNREADABLE end
  if redis.sha1hex(stored) ~= swap[DIGEST] then return nil, #stored, CHANGED end
  local state = {select(2, cmsgpack.unpack_limit(stored, LAST, 1))}
  if #stored > swap[OFFSET] then
    local remembered = {cmsgpack.unpack(string.sub(stored, swap[OFFSET] + 1))}
    for i, member in ipairs(remembered) do state[SQUARES + i] = member end
  end
  return state, #stored
end

-- The merged state: all of it but the sums is merged here. A delta has the number of components in place of minimums.
local function merge(state, delta, swap)
  if state then
    merge_head(state, delta)
  else
    state = {delta[FORMAT], delta[SHAPE], delta[COUNT], delta[FIRST], delta[LAST]}
  end
  state.components, state.sums = delta[MINIMUMS], ARGV[swap[NUMBER]]
  return state
end

-- The merged state as it is stored.
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
