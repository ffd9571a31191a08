-- rows.lua: changes the form of rows of sums (core/exact_sums.py), which most commits need not do. This is the body of
-- a function, rows(), which commit.lua calls when it meets the first row in another form.
--
-- Returns   {widen, trim}: functions on rows. Here, size is the number of limbs per component.
-- KEYS, ARGV and the reply are those of commit.lua; this function uses none of them.

-- Returns the same sums as a row of new_size limbs per component, from the limb new_low on.
local function resize(low, limbs, size, components, new_low, new_size)
  local resized = {}
  for component = 0, components - 1 do
    local from, to = component * size, component * new_size
    local highest = limbs[from + size]
    for i = 1, new_size do
      local old = i + new_low - low
      local limb = 0
      if old > size then
        limb = highest < 0 and BASE - 1 or 0
      elseif old == size then
        limb = highest % BASE
      elseif old > 0 then
        limb = limbs[from + old]
      end
      resized[to + i] = i == new_size and limb >= HALF and limb - BASE or limb
    end
  end
  return resized
end

-- Returns the lowest limb, the limbs and the size of a row with the same sums, in which another row has its place.
local function widen(low, limbs, size, components, more_low, more_size)
  local new_low = math.min(low, more_low)
  local new_size = math.max(low + size, more_low + more_size) - new_low
  return new_low, resize(low, limbs, size, components, new_low, new_size), new_size
end

-- Returns the lowest limb and the limbs of the same sums in their only form: without limbs that are 0 in all components
-- at the low end, or that only repeat the sign at the high end. With is_too_small, the highest limbs may have 33 bits.
local function trim(low, limbs, size, components, is_too_small)
  if is_too_small then
    limbs, size = resize(low, limbs, size, components, low, size + 1), size + 1
  end
  local zeros, used = size, 1
  for component = 0, components - 1 do
    local from = component * size
    local i = 0
    while i < zeros and limbs[from + i + 1] == 0 do i = i + 1 end
    zeros = i
    i = size
    local highest = limbs[from + size]
    while i > used and (highest == 0 or highest == -1) and (limbs[from + i - 1] >= HALF) == (highest < 0) do
      i = i - 1
      highest = limbs[from + i] - (highest < 0 and BASE or 0)
    end
    used = i
  end
  if zeros == size then return 0, {} end
  return low + zeros, resize(low, limbs, size, components, low + zeros, used - zeros)
end

return {widen = widen, trim = trim}
