--[[ slabs — what a shard may spend of a named account that several shards share; prepended at load before the named accounts. Fields of the
named hash: "slab|<account>" of each shard = "<transfer> <open or moving> <dry until ms> <window> <meter>=<amount> ...": what it holds of the
limits in the window that begins then (0 where windows do not turn); "want|<account>" = what a running step asked for in vain; "recall|<account>" = "<until ms> <meter>=<amount> ...": until then it lets nobody in
beyond that, as others ask in vain; at the
account's home "lent|<account> <shard>" = "<transfer> <window> <in vain until ms> <since ms>;<lent>;<granted by this transfer>;<meters asked in vain>". Always: what a
shard holds is at most what its home says it lent, and that is within the limits. Slots are held whatever the window. ]]
local DRY_AGAIN_MS = 50  -- how long a call that waits in place gives a manager to fetch what it wants
local LEASE_MS = 5000  -- after which what a shard has free of a slab is looked at

local function slab_read(text)
  local parts = words(text)
  return text and {transfer = tonumber(parts[1]), moving = parts[2] == 'moving', dry = tonumber(parts[3]), window = tonumber(parts[4]),
    amounts = amounts(text)} or nil
end

local function slab_words(held)
  local text = {}
  for meter, amount in pairs(held) do
    if amount > 0 then text[#text + 1] = meter .. '=' .. int(amount) end
  end
  return table.concat(text, ' ')
end

local function slab_text(slab)
  return table.concat({int(slab.transfer), slab.moving and 'moving' or 'open', int(slab.dry), int(slab.window), slab_words(slab.amounts)}, ' ')
end

-- A slab in the window of today: that of a window which has ended, and what was on its way for it, is nothing.
local function slab_in(slab, account)
  local window = account.kind == 'calendar' and account.start or 0
  if slab and slab.window ~= window then
    slab.amounts, slab.moving, slab.window = {slots = slab.amounts.slots}, false, window
  end
  return slab
end

-- What a shard may use while others ask in vain, although its slab is larger; nothing where nobody does.
local function recall_of(text, now) return text and tonumber(words(text)[1]) > now and amounts(text) or {} end

-- The most that may be in use of an account here: its limit, or the slab of it that this shard holds.
local function most_here(account, meter)
  if not account.slab then return account.limits[meter] end
  local most = math.min(account.limits[meter], account.slab.amounts[meter] or 0)
  return math.min(most, account.recall[meter] or most)
end

-- Whether more cannot be had: no shard shares the account, or its home had nothing when it was asked last.
local function is_dry(named, account)
  return not account.slab or named.dry == account.id or account.slab.dry > named.now
end

-- When somebody should look whether there is room: at once where a slab is short and its home was not asked yet.
local function look_at(named, account, at)
  if not account.slab or account.closed > named.now then return at end
  local again = math.max(named.now, account.slab.dry)
  return at > 0 and math.min(at, again) or again
end
