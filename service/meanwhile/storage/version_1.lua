-- version_1.lua: reads states of version 1, which had neither limbs nor a checksum. This is the body of a function,
-- version_1(trim), which commit.lua calls when it meets the first state without a valid checksum.
-- core/state_version_1.py does the same.
--
-- trim      The function of rows.lua
-- Returns   A function that returns the state of version 2 for a stored state of version 1; nil if it is not one
-- KEYS, ARGV and the reply are those of commit.lua; this function uses none of them.
--
-- A state of version 1 is {1, shape, count, first, last, minimums, maximums, sums, squares, producers, ...}. There, the
-- sum of a component is an array of doubles (a floating-point expansion), whose exact sum it is.

local MINIMUMS_1, SQUARES_1 = 6, 9  -- The members of a state of version 1 that have other numbers.
local EARLIEST, LATEST_TIME = -62135596800000, 253402300799999  -- The years 1 to 9999.
local LARGEST = 1e140  -- The largest magnitude of a number in a reading.
local HALF_ULP = 2 ^ -53  -- At most half a unit in the last place of a double, relative to the double.
local SLACK = 1 + 2 ^ -40  -- Allows for rounding where doubles that approximate exact sums are compared.
local NAME, HIGHEST, NEAR_WINDOW, FAR_WINDOW, COUNTED_AT, FLOOR = 1, 2, 3, 4, 5, 6  -- The members of a producer.

-- Returns a double as an integer below 2^53, the limb with its lowest bit, and the weight of that bit in the limb.
local function split(number)
  local mantissa, exponent = math.frexp(number)
  exponent = exponent - 53
  local limb = math.floor(exponent / 32)
  return mantissa * 2 ^ 53, limb, 2 ^ (exponent - 32 * limb)
end

-- Returns the lowest limb and the limbs of the exact sums of these doubles.
local function sums_of(expansions)
  local low, high
  for _, parts in ipairs(expansions) do
    for _, part in ipairs(parts) do
      local _, limb = split(part)
      low, high = math.min(low or limb, limb), math.max(high or limb, limb)
    end
  end
  if not low then return 0, {} end
  local size = high - low + 4  -- A double takes up to three limbs; the highest one has the sign.
  local limbs = {}
  for component, parts in ipairs(expansions) do
    local from = (component - 1) * size
    for i = 1, size do limbs[from + i] = 0 end
    for _, part in ipairs(parts) do
      local integer, limb, unit = split(part)
      local at, sign = from + limb - low, integer < 0 and -1 or 1
      integer = math.abs(integer)
      local lower = integer % BASE * unit  -- 32 significant bits each, so the products are exact.
      local upper = math.floor(integer / BASE) * unit + math.floor(lower / BASE)
      limbs[at + 1] = limbs[at + 1] + sign * (lower % BASE)
      limbs[at + 2] = limbs[at + 2] + sign * (upper % BASE)
      limbs[at + 3] = limbs[at + 3] + sign * math.floor(upper / BASE)
    end
    for i = from + 1, from + size - 1 do
      limbs[i + 1] = limbs[i + 1] + math.floor(limbs[i] / BASE)
      limbs[i] = limbs[i] % BASE
    end
  end
  return trim(low, limbs, size, #expansions)
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

-- Returns whether any readings can have these sums. Makes the same comparisons of doubles as
-- core/state_version_1.py. Every comparison is false for NaN.
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

local function is_utf_8(text)
  local rest = text
  for _, sequence in ipairs({  -- The well-formed sequences beyond ASCII (Unicode, table 3-7).
    '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
  }) do rest = rest:gsub(sequence, ' ') end
  return not rest:find('[\128-\255]')
end

-- Returns whether list is a table whose entries have this type and, if size is given, this number.
local function is_list(list, kind, size)
  if type(list) ~= 'table' or (size and #list ~= size) then return false end
  if #list == 0 and next(list) ~= nil then return false end  -- A map whose content would be lost.
  for i = 1, #list do
    if type(list[i]) ~= kind then return false end
  end
  return true
end

-- Returns whether the members of a state that idempotency.lua reads are well-formed.
local function remembers_well(state)
  local producers, retired, timestamps, batches = unpack(state, SQUARES_1 + 1, SQUARES_1 + 4)
  if producers ~= nil and not is_list(producers, 'table') then return false end
  for _, entry in ipairs(producers or {}) do
    if type(entry[NAME]) ~= 'string' then return false end
    local numbers = {entry[HIGHEST], entry[NEAR_WINDOW], entry[FAR_WINDOW], entry[COUNTED_AT]}
    if not is_list(numbers, 'number', 4) then return false end
    if entry[FLOOR] ~= nil and type(entry[FLOOR]) ~= 'number' then return false end
  end
  if retired ~= nil and not (is_list(retired, 'number') and #retired % 3 == 0) then return false end
  if timestamps ~= nil and not (is_list(timestamps, 'number') and #timestamps % 2 == 0) then return false end
  return batches == nil or is_list(batches, 'number')
end

-- Returns the state. Raises an error or returns nil if it is not one of version 1.
local function upgrade(stored)
  local state, more = cmsgpack.unpack(stored)
  if more ~= nil or state[1] ~= 1 or type(state[SHAPE]) ~= 'string' or not is_utf_8(state[SHAPE]) then return nil end
  if not is_whole(state[COUNT], 1, MAX_COUNT) then return nil end
  for member = FIRST, LAST do
    if not is_whole(state[member], EARLIEST, LATEST_TIME) then return nil end
  end
  local lows, highs, sums, squares = unpack(state, MINIMUMS_1, SQUARES_1)
  if #lows == 0 or #highs ~= #lows or #sums ~= #lows or #squares ~= #lows then return nil end
  for i = 1, #lows do
    if not is_possible(state[COUNT], lows[i], highs[i], sums[i], squares[i]) then return nil end
  end
  if not remembers_well(state) then return nil end
  local upgraded = {VERSION, state[SHAPE], state[COUNT], state[FIRST], state[LAST], {}, lows, highs}
  upgraded[SUM_LOW], upgraded[SUMS] = sums_of(sums)
  upgraded[SQUARE_LOW], upgraded[SQUARES] = sums_of(squares)
  for member = SQUARES_1 + 1, #state do upgraded[member - SQUARES_1 + SQUARES] = state[member] end
  return upgraded
end

return function(stored)
  local ok, state = pcall(upgrade, stored)
  return ok and state or nil
end
