-- commit.lua: folds summaries of readings into the stored states of their streams, and forgets streams. Every write is
-- one run of this script. Functions are made anew in every run; so those of once.lua, which stands before this as a
-- function, are made only where they are needed.
--
-- KEYS[i]   the key of a stream; every key once
-- ARGV[1]   MessagePack: an array of groups. A group is {entries}; with an idempotency key {entries, producer, sequence,
--           first}, first only if that is a range; with timestamps {entries, stamps, digest, completes}, see once.lua:
--           with completes the stamps are the last ones of the batch that has the digest. An entry is {i, delta}: a
--           summary for the stream at KEYS[i]; {i, delta, first}: the range of this stream starts there, if first is not
--           false; {i, delta, first, {digest, offset, n}}: the state was merged elsewhere, and is stored if SHA-1 of
--           the stored one is the digest ('' if there is none), with ARGV[n] as its sums and what
--           it has from the offset on behind them; or
--           {i, false, {shape, components}}: forget that stream, if it has that shape. The entries of a group stand or
--           fall together, with a stream at most once.
-- ARGV[2]   the most keys that the database may have; past it new streams are refused. 0 for no limit
-- ARGV[3]   '1' to store also what only had duplicates: then the replicas that WAIT counts have what they repeat
-- ARGV[4]   how many new streams have room already, because a group before asked for them; or nil, to record. With it
--           nothing is written: it is only said what would be refused. Of a delta, members 2 and 3 count, and 6 is the
--           number of components
-- ARGV[5]   '1' to merge however wide a state is
-- Reply     {verdicts, state_1, ..., state_n}
--           verdicts: MessagePack, one a group: {refusals, duplicates, how many of its streams are new}. Refusals are
--           {i, reason}; if there are any, nothing of the group is recorded. The reason is the stored shape if it is
--           another one, false if the state is not readable, or a number: one of once.lua's, where a third item is the highest sequence of
--           PARTLY_COUNTED, or the third is how many positions of unknown stamps follow behind the fourth, the fourth
--           how many of stamps that are ahead, before those of the new ones, of MIXED; TOO_MANY_STREAMS past the limit;
--           TOO_MANY_READINGS past 2^53 - 1; {0, LATER}: the groups before it were work enough for one run;
--           {i, WIDE}: the state takes too long to merge; {i, CHANGED}: it does not have that digest. Duplicates are the
--           i that had counted it before.
--           state_i: the state of KEYS[i] after this commit, in MessagePack, or its last one if it was forgotten; nil
--           where every group was refused or there was nothing to forget.
--
-- A delta has the form of a state (service/state.py): {1: version, 2: shape, 3: count, 4: first, 5: last, 6: minimums,
-- 7: maximums, 8: sums, 9: squares}; what a state remembers of keys stands behind that. Sums are canonical expansions,
-- smallest part first (service/exact.py); this is the same law as Summary.merge, to the bit. Lua's numbers are IEEE
-- doubles and cmsgpack keeps every one of them; nothing here may pass through tostring, which keeps 14 digits.
--
-- The times of readings decide nothing but the first and the last one. A time more than ten minutes ahead of the clock
-- of Redis is taken as now, so that one wrong clock cannot pin the last time of a stream in the future.
--
-- Everything is read, checked and encoded before the first write, so an error on the way leaves nothing half written.
-- If the server refuses the first write, the reply is the error UNWRITTEN: nothing was recorded.

local clock = redis.pcall('TIME')
if clock.err then return redis.error_reply('UNWRITTEN ' .. clock.err) end
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- Milliseconds since 1970.

local VERSION = 1
local UNREADABLE, TOO_WIDE, OTHER = {}, {}, {}  -- In place of a state.

local NEW, DUPLICATE, PARTLY_COUNTED, MIXED = 'new', 'duplicate', 4, 6  -- Of once.lua.
local TOO_MANY_STREAMS, TOO_MANY_READINGS, LATER, WIDE, CHANGED = 3, 7, 8, 9, 10
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
  state[3] = state[3] + delta[3]
  state[4] = math.min(state[4], delta[4])
  state[5] = math.max(in_time(state[5]), delta[5])
  return state
end

-- Merges a delta whose sums were merged elsewhere.
local function take_over(state, delta, swap)
  state = state and merge_head(state, delta) or {delta[1], delta[2], delta[3], delta[4], delta[5], components = delta[6]}
  state.sums = ARGV[swap[3]]
  return state
end

local function merge(state, delta)
  merge_head(state, delta)
  local minimums, maximums = state[6], state[7]
  for component = 1, #minimums do
    minimums[component] = math.min(minimums[component], delta[6][component])
    maximums[component] = math.max(maximums[component], delta[7][component])
  end
  add(state[8], delta[8])
  add(state[9], delta[9])
  return state
end

local function is_utf8(text)
  if not text:find('[\128-\255]') then return true end
  local sequences = {  -- That are well-formed, beyond ASCII (Unicode, table 3-7).
    '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
  }
  for _, sequence in ipairs(sequences) do text = text:gsub(sequence, ' ') end
  return not text:find('[\128-\255]')
end

-- Whether these are the parts of an expansion that is at most limit: each much smaller than the one above it, and none 0.
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

-- Whether some readings can have these sums: the same comparisons of doubles as _is_possible in service/state.py makes,
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
  if type(state) ~= 'table' or state[1] ~= VERSION or type(state[2]) ~= 'string' then return false end
  if state[2] ~= '' and not is_utf8(state[2]) then return false end
  local count, lows, highs, sums, squares = state[3], state[6], state[7], state[8], state[9]
  if not is_whole(count, 1, MAX_COUNT) then return false end
  if not is_whole(state[4], EARLIEST, LATEST) or not is_whole(state[5], EARLIEST, LATEST) then return false end
  for member = 6, 9 do
    if type(state[member]) ~= 'table' or #state[member] ~= #lows then return false end
  end
  for i = 1, #lows do
    if not is_possible(count, lows[i], highs[i], sums[i], squares[i]) then return false end
  end
  if #lows == 0 then return false end
  return state[10] == nil and state[11] == nil and state[12] == nil and state[13] == nil or memory().is_memory(state)
end

local work = 0

local function load(key, is_bounded)
  work = work + WORK_OF_NONE
  local stored = redis.pcall('GET', key)
  if not stored then return nil end
  work = work + WORK_OF_A_STREAM
  if type(stored) ~= 'string' then return UNREADABLE end
  if is_bounded and #stored > MAX_STATE then return TOO_WIDE end
  work = work + #stored
  local ok, state, more = pcall(cmsgpack.unpack, stored)
  return ok and more == nil and is_state(state) and state or UNREADABLE
end

-- The state that was merged elsewhere, as it was before that: without its sums, and with what it remembers.
local function load_head(key, components, swap)
  work = work + WORK_OF_A_STREAM
  local digest, offset = swap[1], swap[2]
  local stored = redis.pcall('GET', key)
  if not stored then return digest ~= '' and OTHER or nil end
  if type(stored) ~= 'string' then return UNREADABLE end
  if redis.sha1hex(stored) ~= digest then return OTHER end
  work = work + #stored / 16
  local state = {select(2, cmsgpack.unpack_limit(stored, 5, 1))}
  if #stored > offset then
    for i, member in ipairs({cmsgpack.unpack(string.sub(stored, offset + 1))}) do state[9 + i] = member end
  end
  state.components = components
  return state
end

-- A state as it is stored.
local function encode(state)
  if not state.sums then return cmsgpack.pack(state) end
  local size = 9
  while state[size + 1] ~= nil do size = size + 1 end
  local parts = {string.char(0x90 + size)}
  for i = 1, 5 do parts[i + 1] = cmsgpack.pack(state[i]) end
  parts[7] = state.sums
  for i = 10, size do parts[#parts + 1] = cmsgpack.pack(state[i]) end
  return table.concat(parts)
end

local limit, always_store, reserved = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local loaded, states, changed, forgotten, answered = {}, {}, {}, {}, {}

local function load_stream(i, delta, swap)
  loaded[i] = true
  if swap then
    states[i] = load_head(KEYS[i], delta[6], swap)
  else
    states[i] = load(KEYS[i], delta and ARGV[5] ~= '1')
  end
end

local room = limit > 0 and limit - redis.call('DBSIZE') - (reserved or 0) or math.huge

-- What the stream at KEYS[i] says to the key or the timestamps of a group, as check and check_stamps of once.lua do.
local function verdict_of(i, producer, sequence, first)
  if not producer then return NEW end
  if type(producer) == 'table' then return memory().check_stamps(states[i], producer, sequence) end
  return memory().check(states[i], producer, sequence, first)
end

local function refusal(i, delta, producer, sequence, first)
  local state = states[i]
  if state == UNREADABLE then return {i, false} end
  if state == TOO_WIDE then return {i, WIDE} end
  if state == OTHER then return {i, CHANGED} end
  if not delta then
    local shape, components = first[1], first[2]
    if state and state[2] ~= shape then return {i, state[2]} end
    return state and #state[6] ~= components and {i, false} or nil
  end
  if state and state[2] ~= delta[2] then return {i, state[2]} end
  local components = state and (state.components or #state[6])
  if state and components ~= (type(delta[6]) == 'table' and #delta[6] or delta[6]) then return {i, false} end
  local verdict, highest, ahead, new = verdict_of(i, producer, sequence, first)
  if verdict == DUPLICATE then return end
  if verdict == PARTLY_COUNTED then return {i, verdict, highest} end
  if verdict == MIXED then
    local refused = {i, verdict, #highest, #ahead}
    for _, positions in ipairs({highest, ahead, new}) do
      for _, position in ipairs(positions) do refused[#refused + 1] = position end
    end
    return refused
  end
  if verdict ~= NEW then return {i, verdict} end
  if state and state[3] + delta[3] > MAX_COUNT then return {i, TOO_MANY_READINGS} end
end

-- Merges or forgets one stream; true if it had counted this key before.
local function apply(i, delta, swap, producer, sequence, first)
  answered[i] = true
  if delta and verdict_of(i, producer, sequence, first) == DUPLICATE then
    changed[i] = changed[i] or always_store
    return true
  end
  if delta then
    delta[4] = in_time(delta[4])
    delta[5] = math.max(delta[4], in_time(delta[5]))
    if swap then
      states[i] = take_over(states[i], delta, swap)
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

local function with(list, item)
  if list == NONE then return {item} end
  list[#list + 1] = item
  return list
end

local function verdict_on(entries, producer, sequence, first)
  local refusals, duplicates, new = NONE, NONE, NONE
  for _, entry in ipairs(entries) do
    local i, delta = entry[1], entry[2]
    if not loaded[i] then load_stream(i, delta, entry[4]) end
    local refused = refusal(i, delta, producer, sequence, entry[3] or first)
    if refused then refusals = with(refusals, refused) end
    if delta and not states[i] then new = with(new, {i, TOO_MANY_STREAMS}) end
  end
  if #new > 0 and #new > room then
    for _, crowded in ipairs(new) do refusals = with(refusals, crowded) end
  end
  if refusals == NONE then
    room = room - #new
    for _, entry in ipairs(reserved and NONE or entries) do
      local is_duplicate = apply(entry[1], entry[2], entry[4], producer, sequence, entry[3] or first)
      if is_duplicate then duplicates = with(duplicates, entry[1]) end
    end
  end
  return {refusals, duplicates, #new}
end

local verdicts = {}
for g, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  if work > MAX_WORK then
    verdicts[g] = {{{0, LATER}}, {}, 0}
  else
    verdicts[g] = verdict_on(group[1], group[2], group[3], group[4])
  end
end

local reply = {cmsgpack.pack(verdicts)}
for i = 1, #KEYS do reply[i + 1] = answered[i] and states[i] and encode(states[i]) or false end
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
