{let t=null;try{t=localStorage.getItem("twinspan.theme")}catch{}(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}
