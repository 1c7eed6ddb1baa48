// Keeps the page for times without a network. export.py --page puts VERSION and FILES before this.
addEventListener("install", event => event.waitUntil(
  caches.open(VERSION).then(cache => cache.addAll(FILES)).then(() => skipWaiting())));

addEventListener("activate", event => event.waitUntil(
  caches.keys()
    .then(names => Promise.all(names.filter(name => name !== VERSION).map(name => caches.delete(name))))
    .then(() => clients.claim())));

addEventListener("fetch", event => event.respondWith(
  caches.match(event.request, {ignoreSearch: true}).then(found => found ?? fetch(event.request))));
